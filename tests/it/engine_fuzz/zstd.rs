//! Damages compressed bodies.

use fastrand::Rng;

/// Number that begins a frame, and that of a frame that decoders skip.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const SKIPPED: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

fn compress(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn skipped(length: u32, content: &[u8]) -> Vec<u8> {
    [&SKIPPED, &length.to_le_bytes()[..], content].concat()
}

/// A compressed body, damaged in most cases.
pub(super) fn damage(rng: &mut Rng, body: &[u8]) -> Vec<u8> {
    let mut frame = compress(body);
    match rng.u8(..14) {
        0 => frame,
        1..=4 => {
            super::bytes::damage(rng, &mut frame);
            frame
        }
        5 => [frame, vec![rng.u8(..); rng.usize(1..9)]].concat(),
        6 => [skipped(3, b"abc"), frame].concat(),
        7 => [frame, skipped(u32::MAX, b"abc")].concat(),
        8 => skipped(0, b""),
        // A content that exceeds the limit of a body.
        9 => compress(&vec![0; 20 << 20]),
        // A frame that asks for the largest window, and one block of a repeated byte.
        10 => [&MAGIC[..], &[0, 0xf8 | rng.u8(..8)], &[3 | (8 << 3), 0, 0, b'x']].concat(),
        // A frame that announces more content than there is.
        11 => [&MAGIC[..], &[0xe0], &u64::MAX.to_le_bytes()[..], &frame[4..]].concat(),
        12 => compress(&frame),
        _ => {
            let middle = body.len() / 2;
            [compress(&body[..middle]), compress(&body[middle..])].concat()
        }
    }
}
