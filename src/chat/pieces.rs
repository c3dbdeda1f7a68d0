//! What the family of a model writes for a message, before it becomes tokens.

use super::message::Image;

/// A piece of a rendered message.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    /// A token of its own that structures the conversation, by its text.
    Marker(&'static str),
    /// Text. Whatever it contains, no marker comes from it.
    Text(String),
    /// An image.
    Image(Image),
}

/// Pieces that are encoded together: neighbouring texts become one text, so that tokens may span them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pieces(Vec<Piece>);

impl Pieces {
    pub(super) fn marker(&mut self, marker: &'static str) -> &mut Self {
        self.0.push(Piece::Marker(marker));
        self
    }

    pub(super) fn text(&mut self, text: impl AsRef<str>) -> &mut Self {
        let text = text.as_ref();
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(last)) => last.push_str(text),
            _ => self.0.push(Piece::Text(text.to_owned())),
        }
        self
    }

    pub(super) fn image(&mut self, image: &Image) -> &mut Self {
        self.0.push(Piece::Image(image.clone()));
        self
    }

    pub(super) fn extend(&mut self, pieces: Pieces) -> &mut Self {
        for piece in pieces.0 {
            if let Piece::Text(text) = piece {
                self.text(text);
            } else {
                self.0.push(piece);
            }
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Piece> {
        self.0.iter()
    }

    pub(super) fn starts_with_marker(&self, marker: &str) -> bool {
        matches!(self.0.first(), Some(Piece::Marker(first)) if *first == marker)
    }

    /// Returns true if these are the first pieces, the last of them as the beginning of a text.
    pub(super) fn starts_with(&self, start: &Pieces) -> bool {
        let Some((last, whole)) = start.0.split_last() else { return true };
        self.0.starts_with(whole)
            && match (self.0.get(whole.len()), last) {
                (Some(Piece::Text(text)), Piece::Text(start)) => text.starts_with(start),
                (found, last) => found == Some(last),
            }
    }

    /// Removes the first pieces, if they are these.
    pub(super) fn remove_start(&mut self, start: &Pieces) {
        if !self.starts_with(start) || start.is_empty() {
            return;
        }
        let last = start.0.len() - 1;
        self.0.drain(..last);
        match (self.0.first_mut(), &start.0[last]) {
            (Some(Piece::Text(text)), Piece::Text(start)) if start.len() < text.len() => {
                text.drain(..start.len());
            }
            _ => {
                self.0.remove(0);
            }
        }
    }

    /// Removes white space at the beginning, up to a piece that is not text.
    pub(super) fn trim_start(&mut self) {
        while let Some(Piece::Text(text)) = self.0.first_mut() {
            *text = text.trim_start().to_owned();
            if !text.is_empty() {
                break;
            }
            self.0.remove(0);
        }
    }

    /// Removes white space at the end, up to a piece that is not text.
    pub(super) fn trim_end(&mut self) {
        while let Some(Piece::Text(text)) = self.0.last_mut() {
            text.truncate(text.trim_end().len());
            if !text.is_empty() {
                break;
            }
            self.0.pop();
        }
    }
}

/// Whether the model reads or writes a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Who speaks; the model does not write it. Trained only where every token is.
    Header,
    /// What is said, with the markers that end it.
    Output,
}

/// A rendered message: segments, each of which is encoded on its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rendered {
    pub(super) segments: Vec<(Side, Pieces)>,
    /// Text that ends the last message of an example, because it completes the stop sequence. In a longer conversation
    /// the header of the next message takes its place.
    pub(super) stop_overlap: &'static str,
    /// True if the mode of the messages of users and systems leaves the message out.
    pub(super) of_no_role: bool,
}

impl Rendered {
    /// Begins a header.
    pub(super) fn header(&mut self) -> &mut Pieces {
        self.segment(Side::Header)
    }

    /// Begins an output.
    pub(super) fn output(&mut self) -> &mut Pieces {
        self.segment(Side::Output)
    }

    fn segment(&mut self, side: Side) -> &mut Pieces {
        self.segments.push((side, Pieces::default()));
        let last = self.segments.len() - 1;
        &mut self.segments[last].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_texts_become_one_and_empty_texts_none() {
        let mut pieces = Pieces::default();
        pieces.text("").text("a").text("b").marker("<m>").text("").marker("<m>");
        let mut more = Pieces::default();
        more.text("c");
        pieces.text(" ").extend(more);
        let text = |text: &str| Piece::Text(text.into());
        assert_eq!(pieces.0, [text("ab"), Piece::Marker("<m>"), Piece::Marker("<m>"), text(" c")]);
    }

    #[test]
    fn the_first_pieces_are_removed_also_from_within_a_text() {
        let mut start = Pieces::default();
        start.marker("<m>").text("a");
        let mut pieces = start.clone();
        pieces.text("b").marker("<n>");
        assert!(pieces.starts_with(&start) && !start.starts_with(&pieces));
        pieces.remove_start(&start);
        assert_eq!(pieces.0, [Piece::Text("b".into()), Piece::Marker("<n>")]);
        pieces.remove_start(&start);
        assert_eq!(pieces.0.len(), 2);
        let mut same = start.clone();
        same.remove_start(&start);
        assert!(same.is_empty());
    }

    #[test]
    fn trimming_shortens_texts_up_to_the_first_that_has_more_than_white_space() {
        let mut pieces = Pieces::default();
        pieces.text(" \n").text(" a ").marker("<m>").text(" b\r\n");
        pieces.trim_start();
        pieces.trim_end();
        let text = |text: &str| Piece::Text(text.into());
        assert_eq!(pieces.0, [text("a "), Piece::Marker("<m>"), text(" b")]);
        let mut blank = Pieces::default();
        blank.text(" \n ");
        blank.trim_end();
        assert!(blank.is_empty());
    }
}
