"""Being here, it puts this folder on the path of the tests below, which share ``small_files``."""
