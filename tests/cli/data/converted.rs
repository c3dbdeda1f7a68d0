//! `tinkex data convert -o`.

use std::fs;

use super::file;
use crate::util::{Folder, run};

const LINE: &str = "{\"prompt\":\"q\",\"completion\":\"a\"}\n";

#[test]
fn examples_are_converted_into_a_file_that_is_replaced_only_if_that_is_asked_for() {
    let home = Folder::new("data-convert-file");
    let input = file(&home, "in.jsonl", LINE.repeat(3));
    let output = home.join("out.jsonl").display().to_string();
    let convert = |more: &[&str]| run(&home, &[&["data", "convert", &input, "--to", "chat"], more].concat());
    let (_, expected, _) = convert(&[]);
    let told = format!("{output}: 3 examples\n");
    assert_eq!(convert(&["-o", &output]), (0, String::new(), told.clone()));
    assert_eq!(fs::read_to_string(&output).unwrap(), expected);
    // The same bytes are no change.
    assert_eq!(convert(&["-o", &output]).0, 0);
    fs::write(&output, "mine").unwrap();
    let (status, stdout, stderr) = convert(&["-o", &output]);
    assert_eq!((status, stdout.as_str()), (2, ""));
    let other = output.replace("out.jsonl", "out-2.jsonl");
    assert_eq!(
        stderr,
        format!(
            "error: {output} is there, and has other lines\n  try: --overwrite replaces it; or another file, such as -o \
             {other}\n"
        )
    );
    assert_eq!(fs::read_to_string(&output).unwrap(), "mine");
    let (_, array, _) = convert(&["-f", "json"]);
    assert_eq!(convert(&["-f", "json", "-o", &output, "--overwrite"]), (0, String::new(), told));
    assert_eq!(fs::read_to_string(&output).unwrap(), array);
    assert_eq!(convert(&["-o", "-"]).1, expected);
    let names: Vec<_> = fs::read_dir(&*home).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "no draft is left: {names:?}");
}

#[test]
fn a_place_where_the_examples_cannot_go_is_refused_before_anything_is_written() {
    let home = Folder::new("data-convert-refused");
    let input = file(&home, "in.jsonl", LINE);
    let path = |name: &str| home.join(name).display().to_string();
    for (output, expected) in [
        (input.clone(), format!("is the file that is converted\n  try: -o {}", path("in-2.jsonl"))),
        (path("."), format!("is a folder\n  try: -o {}", path("converted.jsonl"))),
        (path("x.jsonl.gz"), format!("would not be compressed\n  try: -o {}", path("x.jsonl"))),
    ] {
        let args = ["data", "convert", &input, "--to", "chat", "--overwrite", "-o", &output];
        let (status, stdout, stderr) = run(&home, &args);
        assert_eq!((status, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.replace("/./", "/").contains(&expected), "{stderr}");
    }
    assert_eq!(fs::read_to_string(&input).unwrap(), LINE);
    let (status, _, stderr) =
        run(&home, &["data", "convert", &input, "--to", "chat", "-o", &path("none/x.jsonl")]);
    assert!(status == 1 && stderr.contains("cannot write"), "{stderr}");
}
