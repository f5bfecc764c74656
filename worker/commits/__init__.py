"""What the finish transaction writes, by kind of job. Each runs in the transaction that has just ended the job's row."""

from worker.commits.evidence import audit, certificate, edition
from worker.commits.finished import Finished, Overtaken
from worker.commits.register import register, suppress
from worker.commits.train import train
from worker.commits.unlearn import unlearn

__all__ = ["Finished", "Overtaken", "audit", "certificate", "edition", "register", "suppress", "train", "unlearn"]
