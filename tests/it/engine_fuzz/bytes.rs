//! Damages bytes without knowing what they mean.

use fastrand::Rng;

/// Bytes at which parsers change their state or overflow.
const REMARKABLE: &[u8] = b"\0\x01\x7f\x80\xff\"{}[],:\\/ \r\n%0-9eE";

/// Largest size of damaged bytes. Repetitions stop there.
const MOST: usize = 200 << 10;

/// A random part of `0..length`, at most `most` long.
fn part(rng: &mut Rng, length: usize, most: usize) -> std::ops::Range<usize> {
    let start = rng.usize(..=length);
    let end = start + rng.usize(..=most.min(length - start));
    start..end
}

/// Damages bytes in one to three places.
pub(super) fn damage(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..=3) {
        if bytes.is_empty() {
            bytes.push(rng.u8(..));
            continue;
        }
        let at = rng.usize(..bytes.len());
        match rng.u8(..7) {
            0 => bytes[at] ^= 1 << rng.u8(..8),
            1 => bytes[at] = REMARKABLE[rng.usize(..REMARKABLE.len())],
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(part(rng, bytes.len(), 64))),
            4 => {
                let repeated = bytes[part(rng, bytes.len(), 256)].to_vec();
                let times = rng.usize(1..=16).min(MOST / repeated.len().max(1));
                bytes.splice(at..at, repeated.repeat(times));
            }
            5 => {
                let inserted: Vec<u8> = (0..rng.usize(1..=16)).map(|_| rng.u8(..)).collect();
                bytes.splice(at..at, inserted);
            }
            _ => {
                let other = rng.usize(..bytes.len());
                bytes.swap(at, other);
            }
        }
        bytes.truncate(MOST);
    }
}
