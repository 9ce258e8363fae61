//! Huffman tables that decode several symbols with their extra bits at a time.
//!
//! A JPEG symbol says how many zero coefficients to pass over and how many bits of the next coefficient's value follow.
//! Looking up the next bits of the stream gives up to two whole coefficients where they fit, which is the usual case; where
//! nothing is to be kept, as many as fit. Source: ITU-T T.81, annex F.

use super::codes::{Codes, END_OF_BLOCK, Symbol};

/// Bits that a lookup sees.
pub(super) const LOOKUP_BITS: u32 = 11;
/// Bits that a lookup sees which only passes over coefficients.
pub(super) const SKIP_BITS: u32 = 12;
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
    pub pairs: [Pair; 1 << LOOKUP_BITS],
    /// By the next `SKIP_BITS` bits; empty where not even one symbol fits.
    pub skips: [Skip; 1 << SKIP_BITS],
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

/// The meaning of the next bits, for coefficients that are passed over: bits 0..4 their number of bits, 4..11 the places
/// that they advance without the end of the block, 15 whether that is the last of them.
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

    fn new(first: Symbol, second: Symbol) -> Pair {
        let first_place = if first.advance as usize == END_OF_BLOCK {
            0
        } else {
            first.advance - 1
        };
        Pair(
            (first.bits + second.bits) as u64
                | (first.bits as u64) << 8
                | (first_place as u64) << 16
                | ((first.advance + second.advance) as u64) << 24
                | (first.value as u16 as u64) << 32
                | (second.value as u16 as u64) << 48,
        )
    }

    fn too_long(length: u32, symbol: u8) -> Pair {
        Pair((length as u64) << 8 | (symbol as u64 >> 4) << 16 | (symbol as u64 & 15) << 24)
    }
}

impl Skip {
    #[inline(always)]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    pub fn bits(self) -> u32 {
        (self.0 & 15) as u32
    }

    /// Without the end of the block.
    #[inline(always)]
    pub fn advance(self) -> usize {
        (self.0 >> 4 & 127) as usize
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
        for (bits, size) in sizes.iter_mut().enumerate() {
            if let Some((length, symbol)) = codes.find::<SIZE_BITS>(bits as u32) {
                *size = (length as u8, symbol);
            }
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
        let singles = codes.tabulate::<{ 1 << SKIP_BITS }>(SKIP_BITS);
        let single = |index: usize, bits_known: u32| {
            let symbol = singles[index & ((1 << SKIP_BITS) - 1)];
            if symbol.bits as u32 <= bits_known {
                symbol
            } else {
                Symbol::default()
            }
        };
        let mut table = Table {
            pairs: [Pair::default(); 1 << LOOKUP_BITS],
            skips: [Skip::default(); 1 << SKIP_BITS],
            codes,
        };
        for (index, pair) in table.pairs.iter_mut().enumerate() {
            let wide = index << (SKIP_BITS - LOOKUP_BITS);
            let first = single(wide, LOOKUP_BITS);
            *pair = match (first.bits, first.advance as usize) {
                (0, _) => match table.codes.find::<LOOKUP_BITS>(index as u32) {
                    None => Pair::default(),
                    Some((length, symbol)) => Pair::too_long(length, symbol),
                },
                (_, END_OF_BLOCK) => Pair::new(first, Symbol::default()),
                (bits, _) => Pair::new(first, single(wide << bits, LOOKUP_BITS - bits as u32)),
            };
        }
        for (index, skip) in table.skips.iter_mut().enumerate() {
            let (mut bits, mut advance) = (0, 0);
            *skip = loop {
                let symbol = single(index << bits, SKIP_BITS - bits);
                bits += symbol.bits as u32;
                match symbol.advance as usize {
                    0 => break Skip(bits as u16 | advance << 4),
                    END_OF_BLOCK => break Skip(bits as u16 | advance << 4 | 1 << 15),
                    places => advance += places as u16,
                }
            };
        }
        Some(table)
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
