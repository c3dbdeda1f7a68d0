//! Which lines are held out for the evaluation.

use super::reader::Record;

/// Reads a share of which no part is empty. A percentage is refused with the share that it is.
pub(crate) fn parse_share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>().ok();
    match number {
        Some(share) if 0.0 < share && share < 1.0 && !text.ends_with('%') => Ok(share),
        Some(percent) if 0.0 < percent && percent < 100.0 => {
            Err(format!("give a share between 0 and 1: {} for {percent}% of the lines", percent / 100.0))
        }
        _ => Err("give a share between 0 and 1, such as 0.05".into()),
    }
}

/// Chooses the lines that are held out by their hashes, so that a line stays on its side when others come or go, and equal
/// lines are on one side. At least one line is on each side.
pub(crate) fn held_out(records: &[Record], share: f64) -> Vec<bool> {
    let hashes: Vec<u64> = records.iter().map(|record| record.raw_hash).collect();
    held_out_hashes(&hashes, share)
}

fn held_out_hashes(hashes: &[u64], share: f64) -> Vec<bool> {
    let part = |hash: u64| (hash >> 11) as f64 / (1_u64 << 53) as f64;
    let mut is_held: Vec<bool> = hashes.iter().map(|hash| part(*hash) < share).collect();
    let n_held = is_held.iter().filter(|it| **it).count();
    if n_held == 0 && 1 < hashes.len() {
        move_equal(hashes, hashes.iter().min(), true, &mut is_held);
    } else if n_held == hashes.len() {
        move_equal(hashes, hashes.iter().max(), false, &mut is_held);
    }
    is_held
}

/// Moves all lines with this hash to the other side, or only one of them if there are no others.
fn move_equal(hashes: &[u64], hash: Option<&u64>, to: bool, is_held: &mut [bool]) {
    let Some(hash) = hash else { return };
    let has_others = hashes.iter().any(|it| it != hash);
    let n = if has_others { hashes.len() } else { 1 };
    let equal = hashes.iter().zip(is_held).filter(|(it, _)| *it == hash);
    equal.take(n).for_each(|(_, is_held)| *is_held = to);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_on_its_side_of_the_split_when_others_come() {
        let hashes: Vec<u64> = (0..1000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let all = held_out_hashes(&hashes, 0.1);
        let n_held = all.iter().filter(|it| **it).count();
        assert!((50..200).contains(&n_held), "{n_held}");
        assert_eq!(held_out_hashes(&hashes[..500], 0.1), all[..500]);
    }

    #[test]
    fn a_percentage_is_refused_with_the_share_that_it_is() {
        assert_eq!(parse_share("0.2"), Ok(0.2));
        for (text, percent) in [("20%", "0.2 for 20%"), ("10", "0.1 for 10%"), ("1.0", "0.01 for 1%")] {
            let problem = format!("give a share between 0 and 1: {percent} of the lines");
            assert_eq!(parse_share(text), Err(problem));
        }
        for text in ["half", "200%", "0", "-0.5", "nan", "100", "0%"] {
            assert_eq!(parse_share(text), Err("give a share between 0 and 1, such as 0.05".into()), "{text}");
        }
    }

    #[test]
    fn each_side_of_a_split_has_a_line() {
        assert_eq!(held_out_hashes(&[u64::MAX, u64::MAX - 1], 0.5), [false, true]);
        assert_eq!(held_out_hashes(&[0, 1], 0.5), [true, false]);
        assert_eq!(held_out_hashes(&[u64::MAX], 0.5), [false]);
        assert_eq!(held_out_hashes(&[0], 0.5), [false]);
        assert_eq!(held_out_hashes(&[u64::MAX, 1 << 63, 1 << 63], 0.5), [false, true, true]);
        assert_eq!(held_out_hashes(&[u64::MAX, u64::MAX, u64::MAX], 0.5), [true, false, false]);
    }
}
