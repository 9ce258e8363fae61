//! The entropy-coded data of a scan: stripped of its stuffing once, then read bit by bit.

use super::codes::{END_OF_BLOCK, signed};
use super::huffman::{FirstTable, Table};

/// Zeros behind the data: more than an MCU can take, so that running out need not be noticed within one.
const SLACK: usize = 4096;

/// Where a coefficient goes: row by row within its block. Places behind the last one lead to the spare one behind the block.
pub(super) const ZIGZAG: [u8; 256] = {
    let mut order = [64; 256];
    let (mut x, mut y, mut up) = (0usize, 0usize, true);
    let mut k = 0;
    while k < 64 {
        order[k] = (y * 8 + x) as u8;
        // Diagonally, turning at the edges.
        if up {
            match (x, y) {
                (7, _) => (y, up) = (y + 1, false),
                (_, 0) => (x, up) = (x + 1, false),
                _ => (x, y) = (x + 1, y - 1),
            }
        } else {
            match (x, y) {
                (_, 7) => (x, up) = (x + 1, true),
                (0, _) => (y, up) = (y + 1, true),
                _ => (x, y) = (x - 1, y + 1),
            }
        }
        k += 1;
    }
    order
};

/// 64 coefficients, row by row, and the spare one; padded.
pub(super) type Block = [i16; 72];

/// The data without stuffing, restart markers and end.
#[derive(Default)]
pub(super) struct CleanScan {
    bytes: Vec<u8>,
    /// End of each restart interval.
    ends: Vec<usize>,
}

impl CleanScan {
    /// `scan` is all that follows the scan's header. None: it does not end in an end-of-image marker, or a marker stands
    /// where none should.
    pub fn read(&mut self, scan: &[u8], restart_interval: usize) -> Option<()> {
        self.bytes.clear();
        self.bytes.reserve(scan.len() + SLACK);
        self.ends.clear();
        let mut rest = scan;
        loop {
            let at = memchr::memchr(0xff, rest)?;
            match *rest.get(at + 1)? {
                0 => {
                    self.bytes.extend_from_slice(&rest[..at + 1]);
                    rest = &rest[at + 2..];
                }
                restart @ 0xd0..=0xd7 if restart_interval > 0 && restart & 7 == (self.ends.len() & 7) as u8 => {
                    self.bytes.extend_from_slice(&rest[..at]);
                    self.ends.push(self.bytes.len());
                    rest = &rest[at + 2..];
                }
                0xd9 => {
                    self.bytes.extend_from_slice(&rest[..at]);
                    self.ends.push(self.bytes.len());
                    break;
                }
                _ => return None,
            }
        }
        self.bytes.resize(self.bytes.len() + SLACK, 0);
        Some(())
    }

    /// The data of restart interval `number`.
    pub fn interval(&self, number: usize) -> Option<Bits<'_>> {
        let end = *self.ends.get(number)?;
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        Some(Bits {
            bytes: &self.bytes,
            at: start,
            end,
            last: self.bytes.len() - 8,
            next: 0,
            count: 0,
        })
    }
}

/// A place in the data.
#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// The next byte that is not yet in `next`.
    at: usize,
    /// Of the restart interval.
    end: usize,
    /// Where the last word begins.
    last: usize,
    /// The next bits, from the top.
    next: u64,
    /// How many of them are valid.
    count: u32,
}

impl Bits<'_> {
    /// Afterwards at least 56 bits are valid.
    #[inline(always)]
    fn refill(&mut self) {
        // SAFETY: `at` never exceeds `last`, which is 8 bytes before the end.
        let word = unsafe { self.bytes.as_ptr().add(self.at).cast::<u64>().read_unaligned() };
        self.next |= u64::from_be(word).wrapping_shr(self.count);
        self.at = (self.at + ((63 - (self.count & 63) as usize) >> 3)).min(self.last);
        self.count |= 56;
    }

    #[inline(always)]
    fn take(&mut self, bits: u32) {
        self.next = self.next.wrapping_shl(bits);
        self.count = self.count.wrapping_sub(bits);
    }

    /// More was read than there is; to be asked after every MCU.
    #[inline(always)]
    pub fn is_past_end(&self) -> bool {
        self.at * 8 > self.end * 8 + self.count as usize
    }

    /// Adds the difference of a block's first coefficient. None: not a code.
    #[inline(always)]
    fn first_coefficient(&mut self, table: &FirstTable, prediction: &mut i32) -> Option<()> {
        self.refill();
        let (length, size) = table.size(self.next)?;
        let value = (self.next << length).unbounded_shr(64 - size);
        *prediction = prediction.wrapping_add(signed(value as u32, size));
        self.take(length + size);
        Some(())
    }

    /// Decodes a block into `block`, which must be zero; its first coefficient is added to `prediction` first. None: damage.
    #[inline(always)]
    pub fn read_block(&mut self, dc: &FirstTable, ac: &Table, prediction: &mut i32, block: &mut Block) -> Option<()> {
        self.first_coefficient(dc, prediction)?;
        block[0] = *prediction as i16;
        let mut place = 1;
        let mut put = |place: usize, value: i16| {
            let to = ZIGZAG[place as u8 as usize] as usize;
            // SAFETY: `ZIGZAG` holds nothing above 64.
            unsafe { *block.get_unchecked_mut(to) = value };
        };
        loop {
            self.refill();
            // 56 bits are enough for two lookups and a symbol that does not fit into one.
            for _ in 0..3 {
                let pair = ac.pair(self.next);
                let behind = place + pair.advance();
                if pair.bits() != 0 {
                    // The second one first: where there is none, it is the first one's place that it spoils.
                    put(behind - 1, pair.second_value());
                    put(place + pair.first_place(), pair.first_value());
                    if behind < 64 {
                        self.take(pair.bits());
                        place = behind;
                        continue;
                    }
                    // If the first coefficient was the block's last, the second symbol is none of this block.
                    let behind_first = place + pair.first_place() + 1;
                    if behind_first >= 64 && pair.first_bits() != pair.bits() {
                        self.take(pair.first_bits());
                        place = behind_first;
                    } else {
                        self.take(pair.bits());
                        place = behind;
                    }
                } else if pair.first_bits() != 0 {
                    let (length, size) = (pair.first_bits(), pair.advance() as u32);
                    let value = (self.next << length).unbounded_shr(64 - size);
                    self.take(length + size);
                    put(place + pair.first_place(), signed(value as u32, size) as i16);
                    place += pair.first_place() + 1;
                } else {
                    let symbol = ac.symbol(self.next)?;
                    self.take(symbol.bits as u32);
                    put(place + symbol.advance as usize - 1, symbol.value);
                    place += symbol.advance as usize;
                }
                if place >= 64 {
                    return (place == 64 || place > END_OF_BLOCK).then_some(());
                }
                break; // such a symbol may have taken half of the bits
            }
        }
    }

    /// Passes over a block. None: damage.
    #[inline(always)]
    pub fn pass_block(&mut self, dc: &FirstTable, ac: &Table, prediction: &mut i32) -> Option<()> {
        self.first_coefficient(dc, prediction)?;
        let mut place = 1;
        loop {
            self.refill();
            for _ in 0..3 {
                let skip = ac.skip(self.next);
                let behind = place + skip.advance();
                if behind < 64 && !skip.is_empty() {
                    self.take(skip.bits());
                    place = behind;
                    if skip.ends_block() {
                        return Some(());
                    }
                    continue;
                }
                // Near the end of the block, or a long code: one symbol.
                let symbol = ac.symbol(self.next)?;
                self.take(symbol.bits as u32);
                place += symbol.advance as usize;
                if place >= 64 {
                    return (place == 64 || place > END_OF_BLOCK).then_some(());
                }
                break; // it may have taken half of the bits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zigzag_is_the_standards() {
        assert_eq!(ZIGZAG[..16], [0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5]);
        assert_eq!(
            ZIGZAG[48..64],
            [58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63]
        );
        let mut places = ZIGZAG[..64].to_vec();
        places.sort();
        assert!(places.iter().enumerate().all(|(at, place)| at == *place as usize));
        assert_eq!((ZIGZAG[64], ZIGZAG[255]), (64, 64));
    }
}
