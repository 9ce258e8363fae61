//! Huffman codes as a file defines them, and the meaning of a JPEG symbol. Source: ITU-T T.81, annexes C and F.

/// What the end of a block adds to the place in it.
pub(super) const END_OF_BLOCK: usize = 128;

/// A symbol with its extra bits; all zero where there is none.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Symbol {
    /// Of code and value.
    pub bits: u8,
    /// Places up to behind the coefficient; `END_OF_BLOCK` where there is none.
    pub advance: u8,
    pub value: i16,
}

/// Codes of increasing length, as annex C orders them.
pub(super) struct Codes {
    /// By length: the first longer code, as the leading bits of 16.
    limits: [u32; 17],
    /// By length: what leads from a code to its symbol's place.
    offsets: [i32; 17],
    pub symbols: [u8; 256],
}

impl Symbol {
    /// Of the code's length, what it stands for, and the value's bits.
    pub fn new(length: u32, symbol: u8, value: u32) -> Symbol {
        let (run, size) = (symbol >> 4, (symbol & 15) as u32);
        Symbol {
            bits: (length + size) as u8,
            advance: match (run, size) {
                (15, 0) => 16,
                (_, 0) => END_OF_BLOCK as u8,
                (run, _) => run + 1,
            },
            value: signed(value, size) as i16,
        }
    }
}

/// Negative values are stored less one, so their first bit is 0.
#[inline(always)]
pub(super) fn signed(value: u32, size: u32) -> i32 {
    let negative = (value as u64) << 1 < 1 << size;
    value as i32 - if negative { (1 << size) - 1 } else { 0 }
}

impl Codes {
    pub fn new(definition: &[u8]) -> Option<Codes> {
        let (counts, symbols) = definition.split_at_checked(16)?;
        if symbols.len() > 256 || symbols.is_empty() {
            return None;
        }
        let mut codes = Codes {
            limits: [0; 17],
            offsets: [0; 17],
            symbols: [0; 256],
        };
        codes.symbols[..symbols.len()].copy_from_slice(symbols);
        let (mut code, mut place) = (0u32, 0i32);
        for length in 1..=16 {
            codes.offsets[length] = place - code as i32;
            code += counts[length - 1] as u32;
            place += counts[length - 1] as i32;
            // A code of all ones is not allowed.
            if code >= 1 << length && counts[length - 1] > 0 {
                return None;
            }
            codes.limits[length] = code << (16 - length);
            code <<= 1;
        }
        Some(codes)
    }

    /// Length and meaning of the code at the top of 64 bits.
    #[cold]
    #[inline(never)]
    pub fn longer(&self, bits: u64) -> Option<(u32, u8)> {
        let window = (bits >> 48) as u32;
        let length = (1..=16).find(|length: &usize| window < self.limits[*length])?;
        let place = (window >> (16 - length)) as i32 + self.offsets[length];
        Some((length as u32, self.symbols[place as usize & 255]))
    }

    /// All codes of up to `longest` bits, in increasing order: length, code, symbol.
    pub fn all(&self, longest: u32) -> impl Iterator<Item = (u32, usize, u8)> + '_ {
        (1..=longest).flat_map(move |length| {
            let [first, end] =
                [length - 1, length].map(|limit| (self.limits[limit as usize] >> (16 - length)) as usize);
            (first..end).map(move |code| {
                let place = code as i32 + self.offsets[length as usize];
                (length, code, self.symbols[place as usize & 255])
            })
        })
    }
}
