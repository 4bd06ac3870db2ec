"""Every value of every case, numbers of whole sets, and how sure they are."""
