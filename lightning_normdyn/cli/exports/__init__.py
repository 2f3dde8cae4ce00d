"""The body of ``normdyn export``: what is asked for, what is read, what is written and measured, and what is said."""
