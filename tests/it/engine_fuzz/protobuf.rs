//! Damages protobuf messages: fields get another number, type or length, vanish, come twice or hold garbage.

use fastrand::Rng;

enum Content {
    Varint(u64),
    /// The bytes of a field of fixed size.
    Fixed(Vec<u8>),
    Bytes(Vec<u8>),
    Message(Vec<Field>),
}

struct Field {
    number: u64,
    /// Type of the field as it is written, which may be another one than that of its content.
    wire_type: u64,
    content: Content,
    /// Length as it is written, if it is a wrong one.
    length: Option<u64>,
}

/// Appends a number in the format of protobuf.
pub(super) fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while 0x80 <= value {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for i in 0..10 {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(7 * i)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Reads a message. Bytes that are not a message, or that hold text or numbers, are `None`.
fn read(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = read_varint(&mut bytes)?;
        let (number, wire_type) = (key >> 3, key & 7);
        let mut cut = |n: usize| {
            let (taken, rest) = bytes.split_at_checked(n)?;
            bytes = rest;
            Some(taken.to_vec())
        };
        let content = match wire_type {
            _ if number == 0 || 32 < number => return None,
            0 => Content::Varint(read_varint(&mut bytes)?),
            1 => Content::Fixed(cut(8)?),
            5 => Content::Fixed(cut(4)?),
            2 => {
                let length = usize::try_from(read_varint(&mut bytes)?).ok()?;
                let (taken, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                match read(taken).filter(|it| !it.is_empty()) {
                    Some(fields) => Content::Message(fields),
                    None => Content::Bytes(taken.to_vec()),
                }
            }
            _ => return None,
        };
        fields.push(Field { number, wire_type, content, length: None });
    }
    Some(fields)
}

fn write(fields: &[Field], out: &mut Vec<u8>) {
    for field in fields {
        write_varint(out, field.number.wrapping_shl(3) | field.wire_type);
        let bytes = match &field.content {
            Content::Varint(it) => {
                write_varint(out, *it);
                continue;
            }
            Content::Fixed(it) => {
                out.extend_from_slice(it);
                continue;
            }
            Content::Bytes(it) => it.clone(),
            Content::Message(it) => {
                let mut bytes = Vec::new();
                write(it, &mut bytes);
                bytes
            }
        };
        write_varint(out, field.length.unwrap_or(bytes.len() as u64));
        out.extend_from_slice(&bytes);
    }
}

/// Damages one field of a message, or of a message in it.
fn damage_one(rng: &mut Rng, fields: &mut Vec<Field>) {
    if fields.is_empty() {
        return;
    }
    let i = rng.usize(..fields.len());
    // Go down two times of three, where that is possible.
    if let Content::Message(below) = &mut fields[i].content
        && rng.u8(..3) != 0
    {
        return damage_one(rng, below);
    }
    let remarkable = [0, 1, 127, 128, 1 << 31, u64::from(u32::MAX), 1 << 40, 1 << 63, u64::MAX];
    let number = remarkable[rng.usize(..remarkable.len())];
    let field = &mut fields[i];
    match rng.u8(..9) {
        0 => field.wire_type = rng.u64(..8),
        1 => field.number = [0, 1, 2, 3, 4, 5, 6, 7, 19_000, (1 << 29) - 1, 1 << 29][rng.usize(..11)],
        2 => field.length = Some(number),
        3 => drop(fields.remove(i)),
        4 => {
            let again = Field { length: None, content: Content::Bytes(vec![rng.u8(..); 3]), ..*field };
            fields.push(again);
        }
        5 => {
            let times = rng.usize(1..40);
            let mut one = Vec::new();
            write(&fields[i..=i], &mut one);
            let all = (0..times).filter_map(|_| read(&one)).flatten();
            let all: Vec<Field> = all.collect();
            fields.extend(all);
        }
        6 => field.content = Content::Varint(number),
        _ => match &mut field.content {
            Content::Varint(it) => *it = number,
            Content::Fixed(it) | Content::Bytes(it) => super::bytes::damage(rng, it),
            Content::Message(it) => {
                let mut bytes = Vec::new();
                write(it, &mut bytes);
                super::bytes::damage(rng, &mut bytes);
                field.content = Content::Bytes(bytes);
            }
        },
    }
}

/// Damages a message in one or two places.
pub(super) fn damage(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let Some(mut fields) = read(bytes) else { return bytes.to_vec() };
    for _ in 0..rng.usize(1..=2) {
        damage_one(rng, &mut fields);
    }
    let mut out = Vec::new();
    write(&fields, &mut out);
    out
}
