"""Files and folders in a bucket, read and written by commands."""

import pytest
from stand_in import Bucket, Lost, contents

from pav_jax.core.errors import Unanswered, UserError
from pav_jax.storage import buckets

bucket = pytest.fixture(autouse=True)(contents)
RUN = "gs://bucket/run"


def put(**files):
    for name, content in files.items():
        path = f"{RUN}/{name.replace('__', '/')}"
        Bucket().pipe_file(path, content.encode())


def test_names_of_files(tmp_path, monkeypatch):
    kept = {"a", "b/c", "b/d.e"}
    for name in kept | {".hidden", "b/.x/y", "7.orbax-checkpoint-tmp/z", "b/.partial"}:
        Bucket().pipe_file(f"{RUN}/{name}", b"")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for folder in (RUN, f"{RUN}/", tmp_path):
        assert set(buckets.files(folder)) == kept
    assert buckets.files(f"{RUN}/b/c") == buckets.files(tmp_path / "a") == [""]
    assert buckets.files(f"{RUN}/none") == buckets.files(tmp_path / "none") == []
    # Objects that stand for folders, as gcsfs lists them.
    listed = ["/bucket/run/", "/bucket/run/b/", "/bucket/run/b/c"]
    monkeypatch.setattr(Bucket, "find", lambda self, path: listed)
    assert buckets.files(RUN) == ["b/c"]


def test_a_bucket_that_does_not_answer_is_not_an_empty_one(monkeypatch):
    def fail(self, path, **_):
        raise Lost

    monkeypatch.setattr(Bucket, "info", fail)
    with pytest.raises(Unanswered, match="cannot use gs://bucket/run: Lost"):
        buckets.exists(RUN)


@pytest.mark.parametrize(
    "error, kind",
    [
        (OSError("Forbidden: no access to storage.objects.get"), UserError),
        (PermissionError("Access Denied"), UserError),
        (FileNotFoundError("The specified bucket does not exist"), UserError),
        (ImportError("Install s3fs to access S3"), UserError),
        (RuntimeError("Unable to locate credentials"), UserError),
        (OSError(28, "No space left on device"), UserError),  # here, not there
        (OSError("Bad Gateway"), Unanswered),
        (TimeoutError(), Unanswered),
        (ConnectionResetError(104, "Connection reset by peer"), Unanswered),
        (Exception("503: Slow Down"), Unanswered),
    ],
)
def test_what_may_be_otherwise_the_next_time(error, kind):
    words = "cannot use gs://bucket/run: "
    with pytest.raises(UserError, match=words) as raised, buckets.explained(RUN):
        raise error
    assert raised.type is kind


def test_what_is_read_of_a_run(tmp_path):
    put(
        config="c", data__test="d", prm__manifest="m", prm__deep__part="p", sft__big="b"
    )
    with buckets.to_read(f"{RUN}/prm/", beside=("config", "data")) as folder:
        found = {
            p.relative_to(folder.parent).as_posix(): p.read_text()
            for p in folder.parent.rglob("*")
            if p.is_file()
        }
    assert found == {
        "config": "c", "data/test": "d", "prm/manifest": "m", "prm/deep/part": "p"
    }  # fmt: skip
    assert not list(buckets.scratch_root().iterdir())
    with buckets.to_read(RUN, parts=("config", "orm", "prm")) as folder:
        assert {path.name for path in folder.iterdir()} == {"config", "prm"}
    with buckets.to_read(f"{RUN}/config") as file:
        assert file.read_text() == "c"
    words = "gs://bucket/run/none does not exist"
    with pytest.raises(UserError, match=words), buckets.to_read(f"{RUN}/none"):
        pass


def test_a_path_of_this_machine_is_itself(tmp_path):
    path = str(tmp_path / "file")
    for use in (buckets.to_read, buckets.to_write):
        with use(path) as found:
            assert found == tmp_path / "file"
    with buckets.to_resume(path, ".partial") as found:
        assert found == tmp_path / "file"


def test_a_folder_is_written_with_one_file_last(bucket, monkeypatch):
    def write(folder):
        (folder / "sub").mkdir(parents=True)
        for name in ("about.json", "b", "sub/c"):
            (folder / name).write_text(name)

    monkeypatch.setattr(Bucket, "left", 2)
    with (
        pytest.raises(UserError, match="cannot use gs://bucket/run: Lost"),
        buckets.to_write(RUN, last="about.json") as folder,
    ):
        write(folder)
    assert bucket().keys() == {"b", "sub/c"}
    monkeypatch.setattr(Bucket, "left", 10)
    with buckets.to_write(RUN, last="about.json") as folder:
        write(folder)
    assert bucket() == {n: n.encode() for n in ("about.json", "b", "sub/c")}


def test_what_fails_writes_nothing(bucket):
    with pytest.raises(Lost), buckets.to_write(f"{RUN}/file") as path:
        path.write_text("half")
        raise Lost
    assert not bucket()


def test_another_machine_goes_on_with_a_file(bucket):
    def attempt(ends):
        with buckets.to_resume(f"{RUN}/out", ".partial") as path:
            begun = path.with_name("gs-bucket-run-out.partial")
            with begun.open("a") as file:
                file.write("line\n")
            if not ends:
                raise Lost
            begun.rename(path)

    for _ in range(2):
        with pytest.raises(Lost):
            attempt(ends=False)
        buckets.local_folder(f"{RUN}/out.partial").unlink()  # another machine
    assert bucket() == {"out.partial": b"line\nline\n"}
    attempt(ends=True)
    assert bucket() == {"out": b"line\n" * 3}
    with buckets.to_resume(f"{RUN}/out", ".partial") as path:  # nothing is left to do
        assert path.read_text() == "line\n" * 3


def test_a_store_that_there_is_no_client_for():
    words = "cannot use tape://a: .* in gs://, s3://"
    with pytest.raises(UserError, match=words), buckets.to_read("tape://a"):
        pass
