//! `tinkex report`: what the figures of a page mean.

use serde_json::{Value, json};

use crate::report::{page, write_run};
use crate::util::{Folder, run};

/// Rows with these losses and further members.
fn rows(losses: &[f64], more: impl Fn(usize) -> Value) -> String {
    let row = |(step, loss): (usize, &f64)| {
        let mut row = json!({ "step": step, "train_mean_nll": loss });
        row.as_object_mut().unwrap().extend(more(step).as_object().unwrap().clone());
        format!("{row}\n")
    };
    losses.iter().enumerate().map(row).collect()
}

#[test]
fn a_fall_of_the_loss_names_the_steps_of_which_it_is_the_mean() {
    let home = Folder::new("report-fall");
    let losses: Vec<f64> = (0..20).map(|i| 2.0 - f64::from(i) / 20.0).collect();
    write_run(&home.join("long"), &json!({}), &rows(&losses, |_| json!({})));
    let text =
        "In 20 steps the training loss fell from 1.975 to 1.075 (means of the first and the last 2 steps).";
    assert!(page(&home, "long").contains(text));
    write_run(&home.join("short"), &json!({}), &rows(&losses[..3], |_| json!({})));
    let text = "In 3 steps the training loss fell from 2.000 to 1.900 (the first and the last step).";
    assert!(page(&home, "short").contains(text));
}

#[test]
fn trained_tokens_are_counted_and_a_sum_of_weights_is_called_so() {
    let home = Folder::new("report-trained");
    let tokens = |name: &'static str| move |_| json!({ "num_tokens": 100, "num_loss_tokens": 4.0, name: 30 });
    write_run(&home.join("own"), &json!({}), &rows(&[1.0; 2], tokens("tinkex/num_trained_tokens")));
    let own = page(&home, "own");
    assert!(own.contains("60 of them trained") && !own.contains("weights sum"), "{own}");
    write_run(&home.join("other"), &json!({}), &rows(&[1.0; 2], tokens("x")));
    let other = page(&home, "other");
    assert!(other.contains("weights sum to 8.000") && !other.contains("of them trained"), "{other}");
}

#[test]
fn a_run_begins_before_it_ends_although_its_settings_are_written_last() {
    let home = Folder::new("report-dates");
    let own = json!({ "started": "2026-11-20T08:00:00Z", "ended": "2026-11-21T09:30:00Z" });
    write_run(&home.join("recorded"), &json!({ "tinkex": own }), &rows(&[1.0], |_| json!({})));
    assert!(page(&home, "recorded").contains("2026-11-20 08:00 to 2026-11-21 09:30 UTC"));
    // The times of the files alone: the settings are newer than the last step.
    let folder = home.join("files");
    write_run(&folder, &json!({}), &rows(&[1.0], |_| json!({})));
    let set = |name: &str, days: u64| {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(days * 86_400);
        std::fs::File::options().append(true).open(folder.join(name)).unwrap().set_modified(time).unwrap();
    };
    set("metrics.jsonl", 20_000);
    set("config.json", 20_001);
    let page_of_files = page(&home, "files");
    assert!(page_of_files.contains("2024-10-04 00:00 UTC") && !page_of_files.contains("2024-10-05"));
    std::fs::write(folder.join("log.txt"), "2024-10-03T07:05:00Z data\n").unwrap();
    assert!(page(&home, "files").contains("2024-10-03 07:05 to 2024-10-04 00:00 UTC"));
}

#[test]
fn steps_that_were_submitted_ahead_have_a_steady_speed() {
    let home = Folder::new("report-speed");
    let times = |step: usize| json!({ "num_tokens": 100, "time/step": if step.is_multiple_of(2) { 1.999 } else { 0.001 } });
    let metrics = rows(&[1.0; 40], times);
    write_run(&home.join("ahead"), &json!({ "submit-ahead": 1 }), &metrics);
    let chart =
        |page: &str| page.split("Tokens a second:").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let ahead = chart(&page(&home, "ahead"));
    assert!(ahead.contains("lowest 100 ") && ahead.contains("highest 100 "), "{ahead}");
    write_run(&home.join("alone"), &json!({ "submit-ahead": 0 }), &metrics);
    assert!(chart(&page(&home, "alone")).contains("highest 100k"));
}

#[test]
fn lengths_and_sizes_that_the_training_command_records_are_shown() {
    let home = Folder::new("report-recorded");
    let (state, sampler) = ("tinker://r/weights/final", "tinker://r/sampler_weights/final");
    let own = json!({
        "checkpoint_bytes": { state: 3_000_000, sampler: 1_000_000 },
        "data": { "n_examples": 7, "lengths": [21, 22, 25, 29, 30], "length_histogram": [[20, 0], [25, 4], [30, 3]] },
    });
    let folder = home.join("run");
    write_run(&folder, &json!({ "tinkex": own }), &rows(&[1.0], |_| json!({})));
    let earlier = json!({ "name": "000005", "state_path": "tinker://r/weights/000005" });
    // Of a training run of which nothing is known.
    let other = json!({ "name": "000001", "state_path": "tinker://q/weights/000001" });
    let last = json!({ "name": "final", "final": true, "state_path": state, "sampler_path": sampler });
    std::fs::write(folder.join("checkpoints.jsonl"), format!("{other}\n{earlier}\n{last}\n")).unwrap();
    let page = page(&home, "run");
    assert_eq!(page.matches("<td class=\"n\">deleted</td>").count(), 1, "{page}");
    for part in [
        "<td class=\"n\">4.0 MB</td>",
        "<td class=\"n\">–</td>",
        "21 to 30 tokens",
        "most, 4, between 20 and 25 tokens",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[test]
fn runs_with_evaluations_are_ranked_by_these() {
    let home = Folder::new("report-ranked");
    // The run with the lower training loss has the higher evaluation.
    for (name, train, test) in [("memorised", 0.1, 2.0), ("learned", 0.5, 1.0), ("neither", 0.9, 3.0)] {
        write_run(&home.join(name), &json!({}), &rows(&[train; 3], |_| json!({ "test/nll": test })));
    }
    let compare = || {
        let folders = ["memorised", "learned", "neither"].map(|name| home.join(name).display().to_string());
        let output = home.join("all.html").display().to_string();
        let line = ["report", &folders[0], &folders[1], &folders[2], "-o", &output];
        assert_eq!(run(&home, &line).0, 0);
        let page = std::fs::read_to_string(&output).unwrap();
        let table = page.split("<h2>Runs</h2>").nth(1).unwrap().split("</table>").next().unwrap();
        let mut names = ["memorised", "learned", "neither"].map(|name| (table.find(name).unwrap(), name));
        names.sort();
        (names.map(|it| it.1), page)
    };
    let (order, page) = compare();
    assert_eq!(order, ["learned", "memorised", "neither"]);
    assert!(page.contains("The lowest evaluation is that of learned, 1.000."));
    // Without the evaluations of one, the training counts.
    write_run(&home.join("neither"), &json!({}), &rows(&[0.9; 3], |_| json!({})));
    let (order, page) = compare();
    assert_eq!(order, ["memorised", "learned", "neither"]);
    assert!(page.contains("The lowest final loss is that of memorised, 0.100."));
}
