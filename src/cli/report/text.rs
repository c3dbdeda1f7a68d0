//! Texts: numbers and dates for people, and texts of strangers made harmless.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// A text as HTML, for contents and for quoted attributes. Control characters and those that turn the direction of
/// writing are shown by their numbers, so that a text cannot rearrange what stands beside it.
pub(crate) fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(char),
            '\r' => {}
            // The pictures of the control characters.
            '\0'..='\x1f' => out.push(char::from_u32(0x2400 + u32::from(char)).unwrap_or('\u{fffd}')),
            _ if is_hidden(char) => {
                // Infallible: the target is a `String`.
                let _ = write!(out, "⟨U+{:04X}⟩", u32::from(char));
            }
            _ => out.push(char),
        }
    }
    out
}

/// Characters that are not seen and change what is: control characters, marks of the direction of writing, separators of
/// lines, and numbers that are no characters.
fn is_hidden(char: char) -> bool {
    let is_mark = matches!(char,
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fdd0}'..='\u{fdef}');
    is_mark || char.is_control() || u32::from(char) & 0xfffe == 0xfffe
}

/// JSON that stands in a `<script>` element: nothing in it can end the element or begin a comment.
pub(crate) fn json_in_script(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + 16);
    for char in json.chars() {
        if matches!(char, '<' | '>' | '&') || is_hidden(char) {
            for unit in char.encode_utf16(&mut [0; 2]) {
                // Infallible: the target is a `String`.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(char);
        }
    }
    out
}

/// The beginning of a text, of at most `n` characters.
pub(crate) fn cut(text: &str, n: usize) -> String {
    match text.char_indices().nth(n) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// JSON as Python writes it, with the numbers `NaN`, `Infinity` and `-Infinity` as strings.
pub(crate) fn json_of_python(text: &str) -> Cow<'_, str> {
    if !text.contains("NaN") && !text.contains("Infinity") {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    let (mut rest, mut in_string) = (text, false);
    while let Some(char) = rest.chars().next() {
        let name =
            ["NaN", "-Infinity", "Infinity"].into_iter().find(|name| !in_string && rest.starts_with(name));
        let n_bytes = match name {
            Some(name) => {
                // Infallible: the target is a `String`.
                let _ = write!(out, "\"{name}\"");
                name.len()
            }
            None if in_string && char == '\\' => rest.chars().take(2).map(char::len_utf8).sum(),
            None => char.len_utf8(),
        };
        if name.is_none() {
            out.push_str(&rest[..n_bytes]);
            in_string ^= char == '"';
        }
        rest = &rest[n_bytes..];
    }
    out.into()
}

/// A number with about three digits that matter: `0.0123`, `1.23`, `12.3`, `1 234`, `1.2M`.
pub(crate) fn figure(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() { "NaN".into() } else { if value < 0.0 { "−∞" } else { "∞" }.into() };
    }
    let size = value.abs();
    let text = if size == 0.0 {
        "0".into()
    } else if size < 1e-3 {
        exponent(value)
    } else if size < 10.0 {
        format!("{value:.*}", if size < 0.1 { 4 } else { 3 })
    } else if size < 100.0 {
        format!("{value:.1}")
    } else if size < 10_000.0 {
        grouped(value.round())
    } else {
        let (unit, name) = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")]
            .into_iter()
            .find(|(unit, _)| *unit <= size)
            .unwrap_or((1.0, ""));
        let scaled = value / unit;
        if 1000.0 <= scaled.abs() && unit == 1e12 { exponent(value) } else { short(scaled) + name }
    };
    text.replace('-', "−")
}

/// A number of things: as [`figure`], but a small one is whole, as things are.
pub(crate) fn amount(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 10_000.0 { grouped(value) } else { figure(value) }
}

/// At most three digits, without zeros at the end.
fn short(value: f64) -> String {
    let digits = if value.abs() < 10.0 { 2 } else { usize::from(value.abs() < 100.0) };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn exponent(value: f64) -> String {
    let text = format!("{value:.2e}");
    match text.split_once('e') {
        Some((digits, power)) if digits.contains('.') => {
            format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// A whole number with its digits in groups of three, separated by narrow spaces.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::from(if value < 0.0 { "−" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if 0 < i && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// An amount of money.
pub(crate) fn usd(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.995 { format!("${value:.3}") } else { format!("${value:.2}") }
}

/// A time span: `0.32 s`, `42 s`, `3 min 10 s`, `31 min`, `2 h 05 min`.
pub(crate) fn span(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".into();
    }
    let whole = seconds.round();
    let (minutes, rest) = ((whole / 60.0).floor(), whole % 60.0);
    if seconds < 10.0 {
        format!("{} s", short(seconds))
    } else if whole < 60.0 {
        format!("{whole:.0} s")
    } else if whole < 600.0 {
        format!("{minutes:.0} min {rest:02.0} s")
    } else if whole < 3570.0 {
        format!("{:.0} min", whole / 60.0)
    } else {
        let minutes = (whole / 60.0).round();
        format!("{} h {:02.0} min", grouped((minutes / 60.0).floor()), minutes % 60.0)
    }
}

/// A date and a time in UTC, `2026-11-28 07:38 UTC`.
pub(crate) fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", second / 3600, second / 60 % 60)
}

/// The date of a number of days since 1970. The years of the calculation begin in March, so that leap days are last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::shell_word::quoted as shell;

    #[test]
    fn no_text_leaves_its_place() {
        assert_eq!(html("</script>&\"'"), "&lt;/script&gt;&amp;&quot;&#39;");
        assert_eq!(html("a\u{202e}b\x1b[2J\0\r\n"), "a⟨U+202E⟩b␛[2J␀\n");
        assert_eq!(html("שלום مرحبا"), "שלום مرحبا");
        assert_eq!(json_in_script("\"</script><!--&\""), "\"\\u003c/script\\u003e\\u003c!--\\u0026\"");
        assert_eq!(shell("tinker://a/b"), "tinker://a/b");
        assert_eq!(shell("$(rm) 'x'"), r"'$(rm) '\''x'\'''");
    }

    #[test]
    fn figures_have_about_three_digits() {
        let cases = [
            (0.0, "0"),
            (0.000_08, "8e−5"),
            (0.0123, "0.0123"),
            (1.234_56, "1.235"),
            (12.34, "12.3"),
            (1234.0, "1\u{202f}234"),
            (12_345.0, "12.3k"),
            (1_200_000.0, "1.2M"),
            (-2.5, "−2.500"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "−∞"),
            (1e300, "1e300"),
        ];
        for (value, text) in cases {
            assert_eq!(figure(value), text);
        }
        assert_eq!(
            [0.321, 42.0, 190.0, 1846.0, 3599.0, 7500.0, f64::NAN].map(span),
            ["0.32 s", "42 s", "3 min 10 s", "31 min", "1 h 00 min", "2 h 05 min", "–"]
        );
        assert_eq!([0.0, 0.25, 3.0].map(usd), ["$0.00", "$0.250", "$3.00"]);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_795_851_480, "2026-11-28 07:38 UTC"),
        ] {
            assert_eq!(date(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn numbers_of_python_become_strings() {
        assert_eq!(
            json_of_python(r#"{"a": NaN, "b": "NaN\"", "c": -Infinity}"#),
            r#"{"a": "NaN", "b": "NaN\"", "c": "-Infinity"}"#
        );
    }
}
