"""Backups: a copy of the database, then of the files that its rows name, with the secrets; and the way back.

The database comes first: files are only ever added, and what a job adds while they are copied no copied row names. Files
are overwritten by nobody but the dispatcher's duties of destruction, so those wait while a backup is made (`keeping`).

A backup holds what was erased after it was made. Restoring an older one therefore needs the ledger of a newer one: every
request that was accepted and every key that was revoked since is then in force again, and the samples go once more.
"""
