//! Values of options that servers would refuse, so that they are refused before anything is sent.

use std::num::{IntErrorKind, ParseIntError};

/// A rate of Adam.
pub(super) fn decay_rate(text: &str) -> Result<f64, String> {
    number(text, |it| (0.0..1.0).contains(&it), "a number from 0 to below 1")
}

pub(super) fn at_least_0(text: &str) -> Result<f64, String> {
    number(text, |it| (0.0..f64::INFINITY).contains(&it), "a number of at least 0")
}

pub(super) fn above_0(text: &str) -> Result<f64, String> {
    number(text, |it| 0.0 < it && it < f64::INFINITY, "a number above 0")
}

/// The number of something of which there is one at least.
pub(super) fn at_least_1(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("give at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) if is_too_large(&error) => Err("is too large".into()),
        Err(_) if text.starts_with('-') => Err("must not be negative".into()),
        Err(_) => Err("not a whole number".into()),
    }
}

fn is_too_large(error: &ParseIntError) -> bool {
    *error.kind() == IntErrorKind::PosOverflow
}

pub(super) fn size(text: &str) -> Result<usize, String> {
    let number = at_least_1(text)?;
    usize::try_from(number).map_err(|_| "is too large".into())
}

fn number(text: &str, is_right: fn(f64) -> bool, rule: &str) -> Result<f64, String> {
    text.parse().ok().filter(|it| is_right(*it)).ok_or_else(|| format!("give {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_of_their_range_are_refused() {
        for (parse, right, wrong) in [
            (decay_rate as fn(&str) -> Result<f64, String>, "0", "1"),
            (decay_rate, "0.95", "-0.1"),
            (at_least_0, "0", "-1"),
            (at_least_0, "1e-8", "inf"),
            (above_0, "0.1", "0"),
            (above_0, "5", "nan"),
        ] {
            assert!(parse(right).is_ok() && parse(wrong).is_err(), "{right}, {wrong}");
        }
        assert_eq!((at_least_1("1"), at_least_1("0")), (Ok(1), Err("give at least 1".into())));
        for (text, problem) in [
            ("x", "not a whole number"),
            ("-1", "must not be negative"),
            ("99999999999999999999", "is too large"),
        ] {
            assert_eq!(size(text), Err(problem.into()));
        }
    }
}
