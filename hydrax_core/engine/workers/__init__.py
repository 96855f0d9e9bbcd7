"""Those who load: worker processes, worker threads, or the caller itself, behind one protocol."""
