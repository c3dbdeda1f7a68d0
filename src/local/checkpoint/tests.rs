//! Tests of the store of checkpoints, on real folders.

use super::*;

fn root(name: &str) -> PathBuf {
    let root = std::env::temp_dir().join(format!("tinkex-checkpoint-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    root
}

fn store(name: &str) -> Store {
    Store::open(root(name)).expect("a folder")
}

/// The description of a checkpoint, without its save id.
fn meta_of(store: &Store, checkpoint: &CheckpointId) -> Meta {
    Meta { save_id: 0, ..store.meta(checkpoint).expect("the description") }
}

fn file(store: &Store, checkpoint: &CheckpointId, name: &str) -> Result<Vec<u8>, StoreError> {
    store.read(checkpoint, &[name]).map(|it| it.1.into_iter().next().expect("one"))
}

fn checkpoint(name: &str) -> CheckpointId {
    CheckpointId::new("s:train:0", Kind::Training, name).expect("a good name")
}

fn meta() -> Meta {
    let run_id = "s:train:0".into();
    Meta { format: 1, run_id, rank: 8, train_mlp: true, base_model: "tinkex/nano".into(), ..Meta::default() }
}

#[test]
fn names_that_could_leave_the_folder_are_refused() {
    let long = "x".repeat(256);
    for name in ["", ".", "..", "a/b", "a\\b", "a b", "é", "a:b", &long] {
        assert!(CheckpointId::new("s", Kind::Training, name).is_err(), "{name:?}");
        assert!(CheckpointId::new("../s", Kind::Training, "x").is_err());
    }
    for name in ["x", "..x", "step-1_0.5", &long[..255]] {
        assert!(CheckpointId::new("s:train:0", Kind::Training, name).is_ok(), "{name:?}");
    }
}

#[test]
fn a_checkpoint_is_replaced_only_with_overwrite() {
    let store = store("whole");
    let save = |bytes: &[u8], overwrite| {
        store.save(&checkpoint("a"), &meta(), &[(ADAPTER, bytes.to_vec())], overwrite)
    };
    save(b"1", false).expect("a first save");
    assert!(
        matches!(save(b"2", false), Err(StoreError::Exists(text)) if text.contains("s:train:0/weights/a"))
    );
    assert_eq!(file(&store, &checkpoint("a"), ADAPTER).expect("the file"), b"1");
    save(b"2", true).expect("a second save");
    assert_eq!(file(&store, &checkpoint("a"), ADAPTER).expect("the file"), b"2");
    assert_eq!(meta_of(&store, &checkpoint("a")), meta());
    let found = store.of_run("s:train:0");
    assert_eq!((found.len(), &found[0].checkpoint, found[0].meta.rank), (1, &checkpoint("a"), 8));
    assert!(store.of_run("s:train:1").is_empty() && store.all().len() == 1);
    assert!(matches!(file(&store, &checkpoint("a"), OPTIMIZER), Err(StoreError::Missing(_))));
    assert!(matches!(store.meta(&checkpoint("b")), Err(StoreError::Missing(_))));
    let config = file(&store, &checkpoint("a"), "adapter_config.json").expect("the file");
    let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    assert_eq!(config["target_modules"], json!(["gate_proj", "up_proj", "down_proj"]));
    let left: Vec<_> =
        fs::read_dir(&store.root).expect("the folder").flatten().map(|it| it.file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(fs::read_dir(store.lease.drafts()).expect("the folder").count(), 0, "no drafts are left");
    fs::remove_dir_all(&store.root).expect("cleaning up");
}

#[test]
fn a_deleted_checkpoint_is_missing_and_a_ttl_sets_the_expiry() {
    let store = store("delete");
    for name in ["a", "b"] {
        store.save(&checkpoint(name), &meta(), &[(ADAPTER, b"1".to_vec())], false).expect("a save");
    }
    store.delete(&checkpoint("a")).expect("a deletion");
    assert!(
        matches!(store.delete(&checkpoint("a")), Err(StoreError::Missing(text)) if text.contains("weights/a"))
    );
    assert!(matches!(store.set_ttl(&checkpoint("a"), None), Err(StoreError::Missing(_))));
    store.set_ttl(&checkpoint("b"), Some(3600)).expect("a note");
    let found = store.all();
    assert_eq!(found.len(), 1);
    assert!(found[0].meta.expires.is_some() && found[0].meta.rank == 8 && 1 < found[0].size_bytes);
    store.set_ttl(&checkpoint("b"), None).expect("a note");
    assert_eq!(meta_of(&store, &checkpoint("b")), meta());
    assert_eq!(fs::read_dir(store.lease.drafts()).expect("the folder").count(), 0, "nothing stays aside");
    fs::remove_dir_all(&store.root).expect("cleaning up");
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_with_its_path() {
    let store = store("file");
    fs::write(store.root.join("s_train_0"), "a file where the folder should be").expect("a file");
    let saved = store.save(&checkpoint("a"), &meta(), &[], false);
    let text = saved.expect_err("an error").text();
    assert!(text.starts_with("cannot create") && text.contains("s_train_0"), "{text}");
    assert_eq!(fs::read_dir(store.lease.drafts()).expect("the folder").count(), 0, "no drafts are left");
    fs::remove_dir_all(&store.root).expect("cleaning up");
    fs::write(&store.root, "a file where the folder should be").expect("a file");
    let Err(Refused::Unusable(error)) = Store::open(store.root.clone()) else { panic!("not an error") };
    assert!(error.starts_with("cannot create") && error.contains("tinkex-checkpoint-file"), "{error}");
    fs::remove_file(&store.root).expect("cleaning up");
}

#[test]
fn an_expired_checkpoint_is_hidden_and_then_deleted() {
    let store = store("over");
    let mut old = meta();
    (old.created, old.ttl_seconds) = ("2020-01-01T00:00:00Z".into(), Some(3600));
    let save =
        |name: &str, meta: &Meta| store.save(&checkpoint(name), meta, &[(ADAPTER, b"1".to_vec())], false);
    save("old", &old).expect("a save");
    save("new", &Meta { created: rfc3339(SystemTime::now()), ttl_seconds: Some(3600), ..meta() })
        .expect("a save");
    save("kept", &Meta { created: "2020-01-01T00:00:00Z".into(), ..meta() }).expect("a save");
    let names =
        |store: &Store| -> Vec<String> { store.all().into_iter().map(|it| it.checkpoint.name).collect() };
    assert!(
        matches!(store.meta(&checkpoint("old")), Err(StoreError::Missing(text)) if text.contains("it has expired"))
    );
    assert_eq!((names(&store), store.of_run("s:train:0").len()), (vec!["kept".into(), "new".into()], 2));
    assert_eq!(store.sweep(SystemTime::now()), ["tinker://s:train:0/weights/old"]);
    assert!(store.sweep(SystemTime::now()).is_empty());
    let tomorrow = SystemTime::now() + Duration::from_secs(24 * 3600);
    assert_eq!(store.sweep(tomorrow), ["tinker://s:train:0/weights/new"]);
    assert_eq!(names(&store), ["kept"]);
    save("old", &old).expect("its name is free again");
    save("old", &old).expect("even before the old one is deleted");
    fs::remove_dir_all(&store.root).expect("cleaning up");
}

#[test]
fn an_archive_and_a_copy_hold_all_files_but_the_description() {
    let store = store("copy");
    let files = [(ADAPTER, b"123".to_vec()), (OPTIMIZER, b"45".to_vec())];
    store.save(&checkpoint("a"), &meta(), &files, false).expect("a save");
    let names = ["adapter_config.json", ADAPTER, OPTIMIZER];
    assert_eq!(store.files(&checkpoint("a")).expect("names").1, names);
    let bytes = store.archive(&checkpoint("a")).expect("an archive").1;
    let mut archive = tar::Archive::new(&bytes[..]);
    let found: Vec<(String, u64)> = archive
        .entries()
        .expect("entries")
        .map(|entry| {
            let entry = entry.expect("an entry");
            (entry.path().expect("a path").display().to_string(), entry.size())
        })
        .collect();
    assert_eq!(found.iter().map(|it| it.0.as_str()).collect::<Vec<_>>(), names);
    assert_eq!((found[1].1, found[2].1), (3, 2));
    let to = CheckpointId::new("c:copy:0", Kind::Training, "a").expect("a good name");
    let copied = Meta { run_id: "c:copy:0".into(), copy_of: Some(checkpoint("a").uri()), ..meta() };
    store.copy(&checkpoint("a"), &to, |_| copied.clone()).expect("a copy");
    store.delete(&checkpoint("a")).expect("a deletion");
    assert_eq!(file(&store, &to, OPTIMIZER).expect("the file"), b"45");
    assert_eq!((meta_of(&store, &to), store.all().len()), (copied, 1));
    fs::remove_dir_all(&store.root).expect("cleaning up");
}

#[test]
fn a_checkpoint_is_published_once() {
    let store = store("public");
    store.save(&checkpoint("a"), &meta(), &[], false).expect("a save");
    assert!(
        matches!(store.publish(&checkpoint("a"), false), Err(StoreError::Exists(text)) if text.contains("private"))
    );
    store.publish(&checkpoint("a"), true).expect("a note");
    assert!(store.all()[0].meta.public);
    assert!(
        matches!(store.publish(&checkpoint("a"), true), Err(StoreError::Exists(text)) if text.contains("public"))
    );
    store.publish(&checkpoint("a"), false).expect("a note");
    assert_eq!(meta_of(&store, &checkpoint("a")), meta());
    fs::remove_dir_all(&store.root).expect("cleaning up");
}

/// Reads a checkpoint with `look` while another thread replaces it, until 30 different saves were seen.
fn read_while_replaced(store: &Store, look: impl Fn(&Store) -> Vec<Vec<u8>>) {
    let save = |n: u32| {
        let bytes = n.to_le_bytes().repeat(1000);
        store
            .save(&checkpoint("a"), &meta(), &[(ADAPTER, bytes.clone()), (OPTIMIZER, bytes)], true)
            .expect("a save");
    };
    save(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| (1..).take_while(|_| !stop.load(Ordering::Relaxed)).for_each(save));
        let _stop = Stop(&stop);
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 30 {
            let files = look(store);
            assert_eq!(files[0], files[1], "files of two saves");
            seen.insert(files[0].clone());
        }
    });
    fs::remove_dir_all(&store.root).expect("cleaning up");
}

/// Sets the flag on drop, so that the writing thread ends even if the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn both(store: &Store) -> Vec<Vec<u8>> {
    store.read(&checkpoint("a"), &[ADAPTER, OPTIMIZER]).expect("never missing").1
}

#[test]
fn a_read_returns_files_of_one_save_while_the_checkpoint_is_replaced() {
    read_while_replaced(&store("readers"), both);
}

#[test]
fn a_copy_has_the_files_of_one_save_while_the_checkpoint_is_replaced() {
    let copies = std::cell::Cell::new(0);
    read_while_replaced(&store("copies"), |store| {
        copies.set(copies.get() + 1);
        let to = CheckpointId::new("c:copy:0", Kind::Training, &format!("c{}", copies.get()))
            .expect("a good name");
        store
            .copy(&checkpoint("a"), &to, |it| Meta { run_id: to.run_id.clone(), ..it })
            .expect("never missing");
        store.read(&to, &[ADAPTER, OPTIMIZER]).expect("the copy").1
    });
}

#[test]
fn a_read_returns_files_of_one_save_where_names_cannot_be_exchanged() {
    let store = store("steps");
    store.can_exchange.store(false, Ordering::Relaxed);
    read_while_replaced(&store, both);
}

#[test]
fn an_interrupted_replacement_is_undone_by_the_next_engine() {
    let store = store("first");
    for (name, bytes) in [("a", b"1"), ("b", b"1")] {
        store.save(&checkpoint(name), &meta(), &[(ADAPTER, bytes.to_vec())], false).expect("a save");
        let moved = store.lease.moved().join(relative_path(&checkpoint(name)));
        fs::create_dir_all(moved.parent().expect("a parent")).expect("a folder");
        fs::rename(store.folder(&checkpoint(name)), moved).expect("the first step");
    }
    store.save(&checkpoint("b"), &meta(), &[(ADAPTER, b"2".to_vec())], false).expect("the second step");
    let root = store.root.clone();
    drop(store);
    let store = Store::open(root).expect("the folder");
    assert_eq!(
        file(&store, &checkpoint("a"), ADAPTER).expect("the file"),
        b"1",
        "the old one, because no new one took its name"
    );
    assert_eq!(file(&store, &checkpoint("b"), ADAPTER).expect("the file"), b"2", "the new one");
    assert!(!store.lease.moved().exists());
    fs::remove_dir_all(&store.root).expect("cleaning up");
}

#[test]
fn a_new_checkpoint_under_an_expired_name_is_never_swept() {
    let store = store("sweep");
    let mut old = meta();
    (old.created, old.ttl_seconds) = ("2020-01-01T00:00:00Z".into(), Some(3600));
    for _ in 0..100 {
        store.save(&checkpoint("a"), &old, &[(ADAPTER, b"1".to_vec())], true).expect("an old one");
        std::thread::scope(|threads| {
            threads.spawn(|| store.sweep(SystemTime::now()));
            store.save(&checkpoint("a"), &meta(), &[(ADAPTER, b"2".to_vec())], false).expect("a new one");
        });
        assert_eq!(file(&store, &checkpoint("a"), ADAPTER).expect("it is there"), b"2");
    }
    fs::remove_dir_all(&store.root).expect("cleaning up");
}

#[test]
fn a_change_of_the_ttl_does_not_overwrite_the_description_of_a_newer_save() {
    let store = store("describe");
    for n in 0..100 {
        let rank = |rank| Meta { rank, ..meta() };
        store.save(&checkpoint("a"), &rank(n), &[], true).expect("a save");
        std::thread::scope(|threads| {
            threads.spawn(|| store.set_ttl(&checkpoint("a"), Some(3600)).expect("a note"));
            store.save(&checkpoint("a"), &rank(n + 1), &[], true).expect("a save");
        });
        assert_eq!(meta_of(&store, &checkpoint("a")).rank, n + 1);
    }
    fs::remove_dir_all(&store.root).expect("cleaning up");
}

#[test]
fn files_of_a_killed_engine_are_removed_and_never_used() {
    let root = root("left");
    let pid = std::process::id();
    for name in
        [&format!(".draft-{pid}-0"), &format!(".old-{pid}-0"), ".tinkex/drafts/0", "mine", ".draft-of-mine"]
    {
        fs::create_dir_all(root.join(name)).expect("a folder");
        fs::write(root.join(name).join(OPTIMIZER), "stale").expect("a file");
    }
    let store = Store::open(root.clone()).expect("the folder");
    let mut left: Vec<_> =
        fs::read_dir(&root).expect("the folder").flatten().map(|it| it.file_name()).collect();
    left.sort();
    assert_eq!(left, [".draft-of-mine", ".tinkex", "mine"], "nothing that an engine did not make");
    assert_eq!(fs::read_dir(store.lease.drafts()).expect("the folder").count(), 0);
    let sampler = CheckpointId::new("s:train:0", Kind::Sampler, "a").expect("a good name");
    for _ in 0..2 {
        store.save(&sampler, &meta(), &[(ADAPTER, b"1".to_vec())], true).expect("a save");
    }
    assert_eq!(store.files(&sampler).expect("names").1, ["adapter_config.json", ADAPTER]);
    store.delete(&sampler).expect("a deletion");
    fs::remove_dir_all(&root).expect("cleaning up");
}

#[test]
fn only_one_engine_can_open_a_folder() {
    let store = store("one");
    let Err(Refused::InUse(error)) = Store::open(store.root.clone()) else { panic!("not refused") };
    assert!(error.contains("in use by another engine") && error.contains("tinkex-checkpoint-one"), "{error}");
    assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
    let root = store.root.clone();
    drop(store);
    drop(Store::open(root.clone()).expect("it is free again"));
    fs::remove_dir_all(&root).expect("cleaning up");
}
