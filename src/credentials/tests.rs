use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;

/// A temporary folder of one test. Dropping it deletes the folder.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tinkex-credentials-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    fn store(&self) -> CredentialStore {
        CredentialStore::in_home(&self.0)
    }

    fn with(&self, text: &str) -> CredentialStore {
        let store = self.store();
        fs::create_dir_all(store.path().parent().expect("a folder")).expect("a folder");
        fs::write(store.path(), text).expect("a file");
        store
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[test]
fn saving_a_file_of_the_official_sdk_keeps_its_unknown_fields() {
    let folder = Folder::new("official");
    let text = json!({
        "version": 1, "default": "123", "theme": "dark",
        "keys": {"123": {
            "type": "generated", "key": "tml-secret-text", "name": "tinker-cli-host", "note": null, "colour": [1, null],
            "details": {"org_details": {"name": "Org"}, "user_details": {"email": "a@b.c", "phone": null}}
        }}
    });
    let store = folder.with(&text.to_string());
    let mut stored = store.load().expect("good");
    let key = stored.default_key().expect("a default");
    assert_eq!(
        (key.key(), key.kind(), key.name()),
        ("tml-secret-text", "generated", Some("tinker-cli-host"))
    );
    assert_eq!(key.details().expect("details")["user_details"]["email"], "a@b.c");
    stored.insert("124", StoredKey::new("tml-other").noted("for tests"));
    store.save(&stored).expect("written");
    let written: Value = serde_json::from_slice(&fs::read(store.path()).expect("a file")).expect("JSON");
    let expected = json!({
        "version": 1, "default": "123", "theme": "dark",
        "keys": {
            "123": {
                "type": "generated", "key": "tml-secret-text", "name": "tinker-cli-host", "colour": [1, null],
                "details": {"org_details": {"name": "Org"}, "user_details": {"email": "a@b.c"}}
            },
            "124": {"type": "manual", "key": "tml-other", "note": "for tests"}
        }
    });
    assert_eq!(written, expected);
    assert_eq!(store.load().expect("good"), stored);
}

#[test]
fn a_missing_file_contains_no_keys() {
    let folder = Folder::new("none");
    let stored = folder.store().load().expect("no keys");
    assert!(stored.default_key().is_none() && stored.keys().next().is_none());
}

#[test]
fn a_default_that_is_missing_or_names_no_key_is_none() {
    let folder = Folder::new("dangling");
    for text in [
        r#"{"version":1,"keys":{}}"#,
        r#"{"default":"9","keys":{"1":{"type":"manual","key":"tml-a"}}}"#,
        "{}",
    ] {
        assert!(folder.with(text).load().expect("good").default_key().is_none(), "{text}");
    }
}

#[test]
fn removing_the_default_key_leaves_no_default() {
    let mut stored = StoredCredentials::default();
    stored.insert("1", StoredKey::new("tml-a"));
    stored.set_default("1");
    assert_eq!(stored.remove("1").expect("a key").key(), "tml-a");
    assert_eq!((stored.default_id(), stored.get("1")), (None, None));
}

#[test]
fn the_error_of_a_malformed_file_names_the_file_and_shows_no_content() {
    let folder = Folder::new("malformed");
    for text in [
        "tml-secret-text",
        r#"{"keys":{"1":"tml-secret-text"}}"#,
        r#"{"keys":["tml-secret-text"]}"#,
        "{\n\"keys\":",
    ] {
        let store = folder.with(text);
        let error = store.load().expect_err("malformed");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("credentials.json are malformed at line"), "{shown}");
        assert!(!shown.contains("secret-text"), "{shown}");
    }
    let key = StoredKey::new("tml-secret-text");
    assert!(!format!("{key:?}").contains("secret-text"));
}

#[cfg(unix)]
#[test]
fn only_the_user_can_read_the_written_file_and_no_other_file_is_left() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("modes");
    let store = folder.store();
    let mode = |path: &Path| fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
    store.save(&StoredCredentials::default()).expect("written");
    let inside = store.path().parent().expect("a folder");
    assert_eq!((mode(store.path()), mode(inside)), (0o600, 0o700));
    // Modes that are too open are corrected.
    fs::set_permissions(store.path(), fs::Permissions::from_mode(0o644)).expect("a mode");
    fs::set_permissions(inside, fs::Permissions::from_mode(0o755)).expect("a mode");
    store.save(&StoredCredentials::default()).expect("written");
    assert_eq!((mode(store.path()), mode(inside)), (0o600, 0o700));
    assert_eq!(fs::read_dir(inside).expect("a folder").count(), 1);
}

#[test]
fn the_error_of_a_file_that_cannot_be_written_names_it() {
    let folder = Folder::new("unwritable");
    fs::write(folder.0.join(".tinker"), "in the way").expect("a file");
    let error = folder.store().save(&StoredCredentials::default()).expect_err("no folder");
    assert!(error.message().contains("credentials.json cannot be written"), "{error}");
}
