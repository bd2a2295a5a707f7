"""Export of particle sets to other programs: tables, subtomograms and CTF volumes together."""
