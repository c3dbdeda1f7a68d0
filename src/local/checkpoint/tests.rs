//! Folders of checkpoints on a disk.

use super::*;

fn store(name: &str) -> Store {
    let root = std::env::temp_dir().join(format!("tinkex-checkpoint-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    Store::new(root)
}

fn place(name: &str) -> Place {
    Place::new("s:train:0", Kind::Training, name).expect("a good name")
}

fn meta() -> Meta {
    let run_id = "s:train:0".into();
    Meta { format: 1, run_id, rank: 8, train_mlp: true, base_model: "tinkex/nano".into(), ..Meta::default() }
}

#[test]
fn names_that_could_leave_the_folder_are_refused() {
    let long = "x".repeat(256);
    for name in ["", ".", "..", "a/b", "a\\b", "a b", "é", "a:b", &long] {
        assert!(Place::new("s", Kind::Training, name).is_err(), "{name:?}");
        assert!(Place::new("../s", Kind::Training, "x").is_err());
    }
    for name in ["x", "..x", "step-1_0.5", &long[..255]] {
        assert!(Place::new("s:train:0", Kind::Training, name).is_ok(), "{name:?}");
    }
}

#[test]
fn a_checkpoint_is_there_as_a_whole_and_is_replaced_only_if_asked() {
    let store = store("whole");
    let save =
        |bytes: &[u8], overwrite| store.save(&place("a"), &meta(), &[(ADAPTER, bytes.to_vec())], overwrite);
    save(b"1", false).expect("a first save");
    assert!(matches!(save(b"2", false), Err(Problem::Exists(text)) if text.contains("s:train:0/weights/a")));
    assert_eq!(store.read(&place("a"), ADAPTER).expect("the file"), b"1");
    save(b"2", true).expect("a second save");
    assert_eq!(store.read(&place("a"), ADAPTER).expect("the file"), b"2");
    assert_eq!(store.meta(&place("a")).expect("the description"), meta());
    let found = store.of_run("s:train:0");
    assert_eq!((found.len(), &found[0].place, found[0].meta.rank), (1, &place("a"), 8));
    assert!(store.of_run("s:train:1").is_empty() && store.all().len() == 1);
    assert!(matches!(store.read(&place("a"), OPTIMIZER), Err(Problem::Missing(_))));
    assert!(matches!(store.meta(&place("b")), Err(Problem::Missing(_))));
    let config = store.read(&place("a"), "adapter_config.json").expect("the file");
    let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    assert_eq!(config["target_modules"], json!(["gate_proj", "up_proj", "down_proj"]));
    let left: Vec<_> =
        fs::read_dir(&store.root).expect("the folder").flatten().map(|it| it.file_name()).collect();
    assert_eq!(left, ["s_train_0"], "no drafts are left");
    fs::remove_dir_all(&store.root).expect("cleaning up");
}

#[test]
fn a_deleted_checkpoint_is_gone_and_a_kept_one_says_until_when() {
    let store = store("delete");
    for name in ["a", "b"] {
        store.save(&place(name), &meta(), &[(ADAPTER, b"1".to_vec())], false).expect("a save");
    }
    store.delete(&place("a")).expect("a deletion");
    assert!(matches!(store.delete(&place("a")), Err(Problem::Missing(text)) if text.contains("weights/a")));
    assert!(matches!(store.keep(&place("a"), None), Err(Problem::Missing(_))));
    store.keep(&place("b"), Some(3600)).expect("a note");
    let found = store.all();
    assert_eq!(found.len(), 1);
    assert!(found[0].meta.expires.is_some() && found[0].meta.rank == 8 && 1 < found[0].size_bytes);
    store.keep(&place("b"), None).expect("a note");
    assert_eq!(store.meta(&place("b")).expect("the description"), meta());
    assert_eq!(folders(&store.root).count(), 1, "nothing stays aside");
    fs::remove_dir_all(&store.root).expect("cleaning up");
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_with_its_path() {
    let store = store("file");
    fs::write(&store.root, "a file where the folder should be").expect("a file");
    let saved = store.save(&place("a"), &meta(), &[], false);
    let text = saved.expect_err("an error").text();
    assert!(text.starts_with("cannot create") && text.contains("s_train_0"), "{text}");
    fs::remove_file(&store.root).expect("cleaning up");
}

#[test]
fn a_checkpoint_whose_time_is_over_is_gone_for_everyone_and_then_deleted() {
    let store = store("over");
    let mut old = meta();
    (old.created, old.ttl_seconds) = ("2020-01-01T00:00:00Z".into(), Some(3600));
    let save = |name: &str, meta: &Meta| store.save(&place(name), meta, &[(ADAPTER, b"1".to_vec())], false);
    save("old", &old).expect("a save");
    save("new", &Meta { created: rfc3339(SystemTime::now()), ttl_seconds: Some(3600), ..meta() })
        .expect("a save");
    save("kept", &Meta { created: "2020-01-01T00:00:00Z".into(), ..meta() }).expect("a save");
    let names = |store: &Store| -> Vec<String> { store.all().into_iter().map(|it| it.place.name).collect() };
    assert!(
        matches!(store.meta(&place("old")), Err(Problem::Missing(text)) if text.contains("its time is over"))
    );
    assert_eq!((names(&store), store.of_run("s:train:0").len()), (vec!["kept".into(), "new".into()], 2));
    assert_eq!(store.sweep(SystemTime::now()), ["tinker://s:train:0/weights/old"]);
    assert!(store.sweep(SystemTime::now()).is_empty());
    let tomorrow = SystemTime::now() + Duration::from_secs(24 * 3600);
    assert_eq!(store.sweep(tomorrow), ["tinker://s:train:0/weights/new"]);
    assert_eq!(names(&store), ["kept"]);
    save("old", &old).expect("its name is free again");
    save("old", &old).expect("even before it was swept");
    fs::remove_dir_all(&store.root).expect("cleaning up");
}

#[test]
fn an_archive_and_a_copy_hold_what_others_can_read_and_no_more() {
    let store = store("copy");
    let files = [(ADAPTER, b"123".to_vec()), (OPTIMIZER, b"45".to_vec())];
    store.save(&place("a"), &meta(), &files, false).expect("a save");
    let names = ["adapter_config.json", ADAPTER, OPTIMIZER];
    assert_eq!(store.files(&place("a")).expect("names"), names);
    let bytes = store.archive(&place("a")).expect("an archive");
    let mut archive = tar::Archive::new(&bytes[..]);
    let found: Vec<(String, u64)> = archive
        .entries()
        .expect("entries")
        .map(|it| {
            let it = it.expect("an entry");
            (it.path().expect("a path").display().to_string(), it.size())
        })
        .collect();
    assert_eq!(found.iter().map(|it| it.0.as_str()).collect::<Vec<_>>(), names);
    assert_eq!((found[1].1, found[2].1), (3, 2));
    let to = Place::new("c:copy:0", Kind::Training, "a").expect("a good name");
    let copied = Meta { run_id: "c:copy:0".into(), copy_of: Some(place("a").uri()), ..meta() };
    store.copy(&place("a"), &to, &copied).expect("a copy");
    store.delete(&place("a")).expect("a deletion");
    assert_eq!(store.read(&to, OPTIMIZER).expect("the file"), b"45");
    assert_eq!((store.meta(&to).expect("the description"), store.all().len()), (copied, 1));
    fs::remove_dir_all(&store.root).expect("cleaning up");
}

#[test]
fn a_checkpoint_is_published_once() {
    let store = store("public");
    store.save(&place("a"), &meta(), &[], false).expect("a save");
    assert!(
        matches!(store.publish(&place("a"), false), Err(Problem::Exists(text)) if text.contains("private"))
    );
    store.publish(&place("a"), true).expect("a note");
    assert!(store.all()[0].meta.public);
    assert!(
        matches!(store.publish(&place("a"), true), Err(Problem::Exists(text)) if text.contains("public"))
    );
    store.publish(&place("a"), false).expect("a note");
    assert_eq!(store.meta(&place("a")).expect("the description"), meta());
    fs::remove_dir_all(&store.root).expect("cleaning up");
}
