"""The data sets of benchmarks.hub: their commits, the files of a commit, and who may read them.

FOLDER/<owner>/<name>/ is the content of a data set's first commit. FOLDER/<owner>/<name>.json, where there is one, says
who may read it: {"gated": true, "token": "hf_..."} or {"private": true, "token": "hf_..."}. A later commit is the
content of another folder, so that every commit stays readable; a file that changes after its commit is answered with a
500. Files and folders whose names start with a dot are left out, but for .gitattributes.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

# The real hub keeps these, and everything above 10 MB, in LFS.
LFS_SUFFIXES = frozenset((".arrow", ".bin", ".bz2", ".gz", ".jpg", ".npz", ".parquet", ".png", ".tar", ".zip", ".zst"))
LFS_SIZE = 10 * 1024 * 1024
# Below the root; the files of a model lie in MODELS/<owner>/<name>/.
MODELS = ".models"
SETTINGS = frozenset({"gated", "private", "token"})


class Refused(LookupError):
    """What the hub answers instead: a status, the code of the header X-Error-Code, a message, further headers."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True)
class Blob:
    """One file's content; `oid` is git's name of it, `sha256` is None where the file is not in LFS."""

    path: Path
    size: int
    modified_ns: int
    oid: str
    sha256: str | None
    pointer_size: int = 0

    def etag(self) -> str:
        return f'"{self.sha256 or self.oid}"'

    def is_unchanged(self) -> bool:
        stat = self.path.stat()
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.modified_ns)


@dataclass(frozen=True)
class Commit:
    """The files by their path, and an id that the content alone decides."""

    id: str
    date: str
    files: dict[str, Blob]

    def tree(self, folder: str, *, recursive: bool) -> list[str]:
        """Sorted paths of the files and folders below a folder ("" is the root)."""
        prefix = f"{folder}/" if folder else ""
        below = [path.removeprefix(prefix) for path in self.files if path.startswith(prefix)]
        folders = {"/".join(parts[:depth]) for parts in map(_parts, below) for depth in range(1, len(parts))}
        return sorted(prefix + path for path in {*below, *folders} if recursive or "/" not in path)


@dataclass
class DataSet:
    """The commits of `main`, oldest first, and what its settings file says."""

    name: str
    gated: bool = False
    private: bool = False
    token: str | None = None
    commits: list[Commit] = field(default_factory=list)

    def commit(self, revision: str) -> Commit:
        """The commit that a branch or an id names.

        Raises: Refused 404 RevisionNotFound.
        """
        if revision in ("main", "refs/heads/main"):
            return self.commits[-1]
        for commit in self.commits:
            if commit.id == revision:
                return commit
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def blob(self, revision: str, path: str) -> tuple[Commit, Blob]:
        """A commit and the content of one of its files.

        Raises: Refused 404 RevisionNotFound or EntryNotFound.
        """
        commit = self.commit(revision)
        if path not in commit.files:
            raise Refused(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit.id)
        return commit, commit.files[path]


class DataSets:
    """Every data set below one folder."""

    def __init__(self, root: Path) -> None:
        self._all: dict[str, DataSet] = {}
        for folder in sorted(path for path in root.glob("[!.]*/[!.]*") if path.is_dir()):
            name = f"{folder.parent.name}/{folder.name}"
            self._all[name] = DataSet(name, **_settings(folder.with_name(f"{folder.name}.json")))
            self.add_commit(name, folder)

    def names(self) -> list[str]:
        return list(self._all)

    def add_commit(self, name: str, folder: Path) -> Commit:
        """Moves `main` of a data set, which must exist, to the content of a folder."""
        commit = read_commit(folder)
        data_set = self._all[name]
        # The same content is the same commit: going back to it moves the branch and makes no second one.
        data_set.commits = [*(old for old in data_set.commits if old.id != commit.id), commit]
        return commit

    def open_to(self, name: str, token: str, *, content: bool) -> DataSet:
        """The data set, for one who may see that it exists, or with `content` read its files; no token is "".

        Raises: Refused 401, 403 or 404, as the hub does.
        """
        if token and token not in {data_set.token for data_set in self._all.values()}:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        found = self._all.get(name)
        if found is None or (found.private and found.token != token):
            # The hub does not tell a stranger whether a data set exists.
            if token:
                raise Refused(404, "RepoNotFound", "Repository not found")
            raise Refused(401, "RepoNotFound", "Invalid username or password.")
        if content and found.gated and found.token != token:
            fix = "Visit its page to ask for access." if token else "Please log in."
            reason = f"Access to dataset {name} is restricted. You must have access to it and be authenticated. {fix}"
            raise Refused(403 if token else 401, "GatedRepo", reason)
        return found

    def signed(self, name: str, sha256: str) -> Blob:
        """A file in LFS by its digest, for one who brings a signed address.

        Raises: Refused 404.
        """
        for commit in self._all[name].commits if name in self._all else ():
            for blob in commit.files.values():
                if blob.sha256 == sha256:
                    return blob
        raise Refused(404, "", "NoSuchKey")


def read_commit(folder: Path) -> Commit:
    """The commit of a folder's present content; its date is that of the newest file."""
    files = {path.relative_to(folder).as_posix(): read_blob(path) for path in _visible(folder)}
    content = json.dumps({path: blob.oid for path, blob in files.items()})
    newest = max((blob.modified_ns for blob in files.values()), default=0)
    date = datetime.fromtimestamp(newest // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return Commit(hashlib.sha1(content.encode()).hexdigest(), date, files)


def read_blob(path: Path) -> Blob:
    stat = path.stat()
    if path.suffix not in LFS_SUFFIXES and stat.st_size <= LFS_SIZE:
        return Blob(path, stat.st_size, stat.st_mtime_ns, _git_oid(path.read_bytes()), None)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {stat.st_size}\n".encode()
    return Blob(path, stat.st_size, stat.st_mtime_ns, _git_oid(pointer), sha256, len(pointer))


def card_data(commit: Commit) -> dict[str, object]:
    """The YAML at the head of the commit's README.md."""
    import yaml

    readme = commit.files.get("README.md")
    text = readme.path.read_text(encoding="utf-8") if readme else ""
    _, mark, rest = text.partition("---\n")
    head, end, _ = rest.partition("\n---")
    return yaml.safe_load(head) if mark and end and text.startswith("---") else {}


def _visible(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = [part for part in path.relative_to(folder).parts if part.startswith(".")]
        if path.is_file() and hidden in ([], [".gitattributes"]):
            yield path


def _settings(file: Path) -> dict[str, object]:
    if not file.exists():
        return {}
    settings = json.loads(file.read_text(encoding="utf-8"))
    if unknown := sorted(set(settings) - SETTINGS):
        raise ValueError(f"'{file}' has the unknown key '{unknown[0]}'. Known: {', '.join(sorted(SETTINGS))}.")
    if (settings.get("gated") or settings.get("private")) and not settings.get("token"):
        raise ValueError(f"'{file}' says gated or private, and names no 'token' that opens the data set.")
    return settings


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _parts(path: str) -> list[str]:
    return path.split("/")
