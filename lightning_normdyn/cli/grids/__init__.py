"""The body of ``normdyn grid``: which trainings are needed, each in a process of its own, and what they showed."""
