//! Huffman tables that decode several symbols with their extra bits at a time.
//!
//! A JPEG symbol says how many zero coefficients to pass over and how many bits of the next coefficient's value follow.
//! Looking up the next bits of the stream gives up to two whole coefficients where they fit, which is the usual case; where
//! nothing is to be kept, as many as fit. Source: ITU-T T.81, annex F.

use super::codes::{Codes, END_OF_BLOCK, Symbol};

/// Bits that a lookup sees.
const LOOKUP_BITS: u32 = 11;
/// Bits that a lookup sees which only passes over coefficients.
const SKIP_BITS: u32 = 12;
/// Bits that such a lookup passes over at most, so that three of them need one refill.
const MOST_SKIPPED: u32 = 18;
/// Bits that a lookup of a first coefficient's size sees.
const SIZE_BITS: u32 = 9;

/// What the first coefficients of blocks are coded with.
pub(super) struct FirstTable {
    /// By the next `SIZE_BITS` bits: length of the code and size of the value; (0, 0): the code is longer.
    sizes: [(u8, u8); 1 << SIZE_BITS],
    codes: Codes,
}

/// What the other coefficients are coded with.
pub(super) struct Table {
    /// By the next `LOOKUP_BITS` bits.
    pairs: [Pair; 1 << LOOKUP_BITS],
    /// By 2^`SKIP_BITS` and the next `SKIP_BITS` bits.
    skips: [Skip; 2 << SKIP_BITS],
    codes: Codes,
}

/// The meaning of the next bits, for coefficients that are kept.
///
/// From bit 0 on, a byte each: bits of the one or two symbols; bits of the first alone; places up to the first coefficient;
/// places up to behind the last one. Then 16 bits each: the two values. The end of a block and a run of 16 zeros have a
/// coefficient too, of value 0. A missing second symbol adds no places; its value is 0.
///
/// A symbol that does not fit has 0 in the first byte, then the length of its code (0: it does not fit either), the zeros
/// that it passes over, and the size of its value.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Pair(u64);

/// The meaning of the next bits, for coefficients that are passed over: bits 0..5 their number of bits (the last one's value
/// may reach beyond the bits that are seen), 5..11 the places that they advance without the end of the block, 15 whether
/// that is the last of them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Skip(u16);

impl Pair {
    #[inline(always)]
    pub fn bits(self) -> u32 {
        (self.0 & 0xff) as u32
    }

    #[inline(always)]
    pub fn first_bits(self) -> u32 {
        (self.0 >> 8 & 0xff) as u32
    }

    #[inline(always)]
    pub fn first_place(self) -> usize {
        (self.0 >> 16 & 0xff) as usize
    }

    #[inline(always)]
    pub fn advance(self) -> usize {
        (self.0 >> 24 & 0xff) as usize
    }

    #[inline(always)]
    pub fn first_value(self) -> i16 {
        (self.0 >> 32) as i16
    }

    #[inline(always)]
    pub fn second_value(self) -> i16 {
        (self.0 >> 48) as i16
    }

    /// The symbol by itself.
    fn first(symbol: Symbol) -> Pair {
        let place = if symbol.advance as usize == END_OF_BLOCK {
            0
        } else {
            symbol.advance - 1
        };
        let bits = symbol.bits as u64;
        Pair(
            bits | bits << 8
                | (place as u64) << 16
                | (symbol.advance as u64) << 24
                | (symbol.value as u16 as u64) << 32,
        )
    }

    /// What the symbol adds if it is the second one.
    fn second(symbol: Symbol) -> Pair {
        Pair(symbol.bits as u64 | (symbol.advance as u64) << 24 | (symbol.value as u16 as u64) << 48)
    }

    fn too_long(length: u32, symbol: u8) -> Pair {
        Pair((length as u64) << 8 | (symbol as u64 >> 4) << 16 | (symbol as u64 & 15) << 24)
    }
}

impl Skip {
    fn new(bits: u32, advance: usize) -> Skip {
        match advance {
            END_OF_BLOCK => Skip(bits as u16 | 1 << 15),
            places => Skip(bits as u16 | (places as u16) << 5),
        }
    }

    #[inline(always)]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    pub fn bits(self) -> u32 {
        (self.0 & 31) as u32
    }

    /// Without the end of the block.
    #[inline(always)]
    pub fn advance(self) -> usize {
        (self.0 >> 5 & 63) as usize
    }

    #[inline(always)]
    pub fn ends_block(self) -> bool {
        self.0 >> 15 != 0
    }
}

impl FirstTable {
    /// `definition`: 16 counts of codes per length, then the symbols. None: damage.
    pub fn new(definition: &[u8]) -> Option<FirstTable> {
        let codes = Codes::new(definition)?;
        if codes.symbols.iter().any(|size| *size > 15) {
            return None;
        }
        let mut sizes = [(0, 0); 1 << SIZE_BITS];
        for (length, code, size) in codes.all(SIZE_BITS) {
            let behind = SIZE_BITS - length;
            sizes[code << behind..(code + 1) << behind].fill((length as u8, size));
        }
        Some(FirstTable { sizes, codes })
    }

    /// Length of the code at the top of `bits`, and size of the value behind it. None: there is no such code.
    #[inline(always)]
    pub fn size(&self, bits: u64) -> Option<(u32, u32)> {
        match self.sizes[(bits >> (64 - SIZE_BITS)) as usize] {
            (0, _) => self.codes.longer(bits).map(|(length, size)| (length, size as u32)),
            (length, size) => Some((length as u32, size as u32)),
        }
    }
}

impl Table {
    /// `definition`: 16 counts of codes per length, then the symbols. None: damage.
    pub fn new(definition: &[u8]) -> Option<Table> {
        let codes = Codes::new(definition)?;
        let pairs = pairs(&codes);
        let skips = skips(&codes);
        Some(Table { pairs, skips, codes })
    }

    /// Of the bits at the top of `bits`; empty where not even one symbol fits.
    #[inline(always)]
    pub fn skip(&self, bits: u64) -> Skip {
        self.skips[(1 << SKIP_BITS) + (bits >> (64 - SKIP_BITS)) as usize]
    }

    /// Of the bits at the top of `bits`.
    #[inline(always)]
    pub fn pair(&self, bits: u64) -> Pair {
        self.pairs[(bits >> (64 - LOOKUP_BITS)) as usize]
    }

    /// The symbol at the top of `bits`, whatever its length. None: there is no such code.
    #[cold]
    #[inline(never)]
    pub fn symbol(&self, bits: u64) -> Option<Symbol> {
        let (length, symbol) = self.codes.longer(bits)?;
        let value = (bits << length).unbounded_shr(64 - (symbol & 15) as u32);
        Some(Symbol::new(length, symbol, value as u32))
    }
}

fn pairs(codes: &Codes) -> [Pair; 1 << LOOKUP_BITS] {
    let mut singles = [Pair::default(); 1 << LOOKUP_BITS];
    let mut pairs = [Pair::default(); 1 << LOOKUP_BITS];
    for (length, code, symbol) in codes.all(LOOKUP_BITS) {
        let (behind, size) = (LOOKUP_BITS - length, (symbol & 15) as u32);
        let Some(rest) = behind.checked_sub(size) else {
            pairs[code << behind..(code + 1) << behind].fill(Pair::too_long(length, symbol));
            continue;
        };
        for value in 0..1 << size {
            let start = ((code << size) + value) << rest;
            singles[start..start + (1 << rest)].fill(Pair::second(Symbol::new(length, symbol, value as u32)));
        }
    }
    for (length, code, symbol) in codes.all(LOOKUP_BITS) {
        let size = (symbol & 15) as u32;
        let Some(rest) = (LOOKUP_BITS - length).checked_sub(size) else {
            continue;
        };
        for value in 0..1 << size {
            let start = ((code << size) + value) << rest;
            let symbol = Symbol::new(length, symbol, value as u32);
            let alone = Pair::first(symbol);
            let both = singles.iter().step_by(1 << (LOOKUP_BITS - rest));
            for (pair, second) in pairs[start..start + (1 << rest)].iter_mut().zip(both) {
                let fits = second.bits() <= rest && symbol.advance as usize != END_OF_BLOCK;
                *pair = Pair(alone.0 + if fits { second.0 } else { 0 });
            }
        }
    }
    pairs
}

/// What the next k bits mean stands in places 2^k..2^(k+1): a first symbol, and then what the rest of the bits means.
fn skips(codes: &Codes) -> [Skip; 2 << SKIP_BITS] {
    let mut skips = [Skip::default(); 2 << SKIP_BITS];
    for bits in 1..=SKIP_BITS {
        let (shorter, these) = skips.split_at_mut(1 << bits);
        for (length, code, symbol) in codes.all(bits) {
            let (behind, size) = (bits - length, (symbol & 15) as u32);
            let alone = Skip::new(length + size, Symbol::new(length, symbol, 0).advance as usize);
            let Some(rest) = behind.checked_sub(size) else {
                if SKIP_BITS - bits + length + size <= MOST_SKIPPED {
                    these[code << behind..(code + 1) << behind].fill(alone);
                }
                continue;
            };
            for value in 0..1 << size {
                let start = ((code << size) + value) << rest;
                for (skip, next) in these[start..start + (1 << rest)].iter_mut().zip(&shorter[1 << rest..]) {
                    let both = alone.advance() + next.advance();
                    let stops = alone.ends_block() || both >= 64;
                    *skip = if stops { alone } else { Skip(alone.0 + next.0) };
                }
            }
        }
    }
    skips
}
