//! A file that is one JSON array, item by item: data sets are published in this form, too.

use std::io::BufRead;

/// The place in the array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Before,
    Inside,
    After,
}

/// Reads the items of an array.
#[derive(Debug, Default)]
pub(super) struct Items {
    place: Place,
}

impl Items {
    /// Reads the next item as it is written; `None` after the last one.
    pub(super) fn next(
        &mut self,
        source: &mut dyn BufRead,
        item: &mut Vec<u8>,
        longest: u64,
    ) -> Result<Option<()>, String> {
        item.clear();
        let (mut depth, mut in_text, mut is_escaped) = (0_usize, false, false);
        loop {
            let bytes = source.fill_buf().map_err(|error| format!("cannot be read: {error}"))?;
            if bytes.is_empty() {
                return match self.place {
                    Place::After => Ok(None),
                    _ => Err("the JSON array has no end: the file may have been cut".into()),
                };
            }
            let mut n_used = 0;
            let mut is_whole = false;
            for &byte in bytes {
                n_used += 1;
                match (self.place, byte) {
                    (Place::Before, b'[') => self.place = Place::Inside,
                    (Place::Before | Place::After, it) if it.is_ascii_whitespace() => {}
                    (Place::Before | Place::After, _) => {
                        return Err(
                            "something follows the JSON array; give one array, or one object a line".into()
                        );
                    }
                    (Place::Inside, b',') if depth == 0 && !in_text => is_whole = true,
                    (Place::Inside, b']') if depth == 0 && !in_text => {
                        self.place = Place::After;
                        is_whole = !item.is_empty();
                    }
                    (Place::Inside, it) if depth == 0 && item.is_empty() && it.is_ascii_whitespace() => {}
                    (Place::Inside, it) => {
                        item.push(it);
                        match it {
                            _ if is_escaped => is_escaped = false,
                            b'\\' if in_text => is_escaped = true,
                            b'"' => in_text = !in_text,
                            b'{' | b'[' if !in_text => depth += 1,
                            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
                            _ => {}
                        }
                    }
                }
                if is_whole {
                    break;
                }
            }
            source.consume(n_used);
            if is_whole {
                return Ok(Some(()));
            }
            if longest < item.len() as u64 {
                return Err(format!("the item is longer than {} MiB", longest >> 20));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// The items of a text, and the problem that ends them. Each byte comes by itself.
    fn items(text: &str) -> (Vec<String>, Option<String>) {
        let mut source = BufReader::with_capacity(1, text.as_bytes());
        let (mut array, mut item, mut all) = (Items::default(), Vec::new(), Vec::new());
        loop {
            match array.next(&mut source, &mut item, 100) {
                Ok(Some(())) => all.push(String::from_utf8_lossy(&item).into_owned()),
                Ok(None) => return (all, None),
                Err(problem) => return (all, Some(problem)),
            }
        }
    }

    #[test]
    fn items_are_split_where_json_does_it() {
        for (text, expected) in [
            ("[]", &[][..]),
            (
                " [ {\"a\": [1, 2]} ,\n {\"b\": \"],\\\"{\"}\n]\n",
                &["{\"a\": [1, 2]} ", "{\"b\": \"],\\\"{\"}\n"],
            ),
            ("[1,\"x\",null]", &["1", "\"x\"", "null"]),
            ("[\"\\\\\",2]", &["\"\\\\\"", "2"]),
        ] {
            let expected: Vec<String> = expected.iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(items(text), (expected, None), "{text}");
        }
    }

    #[test]
    fn an_array_that_is_cut_or_followed_by_something_is_a_problem() {
        for (text, n, expected) in [
            ("[1,2", 1, "has no end"),
            ("[[[", 0, "has no end"),
            ("[1]\n[2]", 1, "something follows"),
            (&format!("[\"{}\"]", "x".repeat(200)), 0, "longer than"),
        ] {
            let (all, problem) = items(text);
            assert!(
                all.len() == n && problem.as_ref().is_some_and(|it| it.contains(expected)),
                "{text}: {problem:?}"
            );
        }
    }
}
