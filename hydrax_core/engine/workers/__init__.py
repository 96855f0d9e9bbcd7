"""Workers: processes, threads, or the caller itself, behind one protocol."""
