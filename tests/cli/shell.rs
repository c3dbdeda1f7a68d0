//! Completions and manual pages.

use crate::util::{Folder, run};

#[test]
fn completions_of_every_shell_name_all_commands() {
    let home = Folder::new("completions");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (status, stdout, stderr) = run(&home, &["completions", shell]);
        assert_eq!((status, stderr.as_str()), (0, ""), "{shell}");
        for word in ["train", "checkpoint", "set-ttl", "keep-last"] {
            assert!(stdout.contains(word), "{shell}: {word}");
        }
    }
    let (status, stdout, stderr) = run(&home, &["completions", "tcsh"]);
    assert_eq!((status, stdout.as_str()), (2, ""));
    assert!(stderr.contains("zsh"), "{stderr}");
}

#[test]
fn manual_pages_are_printed_and_written_one_for_each_command() {
    let home = Folder::new("man");
    let (status, page, _) = run(&home, &["man"]);
    assert!(status == 0 && page.contains(".TH tinkex 1") && page.contains("tinkex\\-train"), "{page}");
    let folder = home.join("pages");
    let (status, stdout, stderr) = run(&home, &["man", &folder.display().to_string()]);
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, "", ""));
    for page in ["tinkex.1", "tinkex-train.1", "tinkex-checkpoint-delete.1", "tinkex-data-check.1"] {
        assert!(folder.join(page).is_file(), "{page}");
    }
    let file = home.join("file");
    std::fs::write(&file, "").unwrap();
    let (status, _, stderr) = run(&home, &["man", &file.join("pages").display().to_string()]);
    assert!(status == 1 && stderr.starts_with("error: cannot write to "), "{stderr}");
}
