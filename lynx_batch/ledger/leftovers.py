"""What attempts that were killed have left at an output: files that no commit names."""

from collections import defaultdict

from lynx_batch import storage
from lynx_batch.ledger.commits import committed_clip_ids, read_commits
from lynx_batch.storage import StoredFile

FILES_PER_CLIP = 2


def find_leftovers(output: str) -> list[StoredFile]:
    """Videos and posters of attempts that were not committed, and saved steps of clips that were.

    While a run goes on, some of these are about to be committed.
    """
    of_clip = defaultdict(list)
    for file in storage.list_files(storage.join(output, "clips")):
        of_clip[_parts(file)[-2]].append(file)
    saved = list(storage.list_files(storage.join(output, "resume")))
    committed = committed_clip_ids(output)
    found = [file for file in saved if _parts(file)[-1].partition("-")[0] in committed]
    for clip_id in of_clip.keys() - committed:
        found += of_clip[clip_id]
    doubtful = [clip_id for clip_id in of_clip.keys() & committed if len(of_clip[clip_id]) > FILES_PER_CLIP]
    for commit in read_commits(output, doubtful):
        named = (commit.clip_uri, commit.poster_uri)
        found += [file for file in of_clip[commit.clip_id] if not file.uri.endswith(named)]
    return found


def _parts(file: StoredFile) -> list[str]:
    return file.uri.split("/")
