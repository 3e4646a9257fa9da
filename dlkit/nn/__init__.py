import os

# With both cores wanted elsewhere, OpenMP threads that wait by spinning take the time that the others compute in: a
# small network trained three to thirty times slower in trials. Sleeping early costs nothing on an idle machine. It is
# read when torch is first loaded; the user's own setting wins.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
