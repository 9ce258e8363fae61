//! The permutation that `numpy.random.default_rng(seed).permutation(n)` gives, bit for bit.
//!
//! datasets draws `train_test_split` from it, so that a run here holds out the same rows as the same run there. Nothing
//! else of this program takes its randomness from here: see `crate::rng`.
//!
//! Sources: SeedSequence after M. E. O'Neill, "Developing a seed_seq alternative" (2015); PCG64 (XSL-RR 128/64) after
//! O'Neill, "PCG: A family of simple fast space-efficient statistically good algorithms" (2014); the shuffle is Fisher and
//! Yates' with bounded integers by masking and rejection (found by comparison with NumPy 2.4.6: not Lemire's method, which
//! `Generator.integers` takes).

/// The numbers 0..n in the order of `default_rng(seed).permutation(n)`.
pub fn permutation(n: usize, seed: u64) -> Vec<u32> {
    let n = u32::try_from(n).expect("more rows than a u32 can number");
    let mut order: Vec<u32> = (0..n).collect();
    let mut generator = Pcg64::from_seed(seed);
    for last in (1..n).rev() {
        let other = generator.up_to(last);
        order.swap(last as usize, other as usize);
    }
    order
}

/// PCG64 with NumPy's buffer of half a number.
struct Pcg64 {
    state: u128,
    increment: u128,
    /// High half of the last 64-bit number, when only its low half was used.
    spare: Option<u32>,
}

impl Pcg64 {
    fn from_seed(seed: u64) -> Self {
        let [a, b, c, d] = seed_words(seed).map(u128::from);
        let mut generator = Pcg64 {
            state: 0,
            increment: (((c << 64 | d) << 1) | 1),
            spare: None,
        };
        generator.step();
        generator.state = generator.state.wrapping_add(a << 64 | b);
        generator.step();
        generator
    }

    fn step(&mut self) {
        const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }

    fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn next_u32(&mut self) -> u32 {
        if let Some(high) = self.spare.take() {
            return high;
        }
        let both = self.next_u64();
        self.spare = Some((both >> 32) as u32);
        both as u32
    }

    /// An unbiased integer in 0..=largest: the low bits of the next numbers until one fits.
    fn up_to(&mut self, largest: u32) -> u32 {
        let mask = u32::MAX >> largest.leading_zeros().min(31);
        loop {
            let candidate = self.next_u32() & mask;
            if candidate <= largest {
                return candidate;
            }
        }
    }
}

/// Four 64-bit words out of a seed: SeedSequence with a pool of four 32-bit words.
fn seed_words(seed: u64) -> [u64; 4] {
    const POOL: usize = 4;
    let entropy = [seed as u32, (seed >> 32) as u32];

    let mut scramble = Scramble {
        factor: 0x43b0_d7e5,
        growth: 0x931e_8875,
    };
    // A seed below 2^32 has one word of entropy; a missing word counts as 0, which is what its high word is.
    let mut pool: [u32; POOL] = std::array::from_fn(|i| scramble.hash(entropy.get(i).copied().unwrap_or(0)));
    for from in 0..POOL {
        for to in 0..POOL {
            if from != to {
                pool[to] = mix(pool[to], scramble.hash(pool[from]));
            }
        }
    }

    let mut scramble = Scramble {
        factor: 0x8b51_f9dd,
        growth: 0x58f3_8ded,
    };
    let words: [u32; 8] = std::array::from_fn(|i| scramble.hash(pool[i % POOL]));
    std::array::from_fn(|i| words[2 * i] as u64 | (words[2 * i + 1] as u64) << 32)
}

/// A multiplicative hash whose factor changes with every word that it takes.
struct Scramble {
    factor: u32,
    growth: u32,
}

impl Scramble {
    fn hash(&mut self, word: u32) -> u32 {
        let word = word ^ self.factor;
        self.factor = self.factor.wrapping_mul(self.growth);
        let word = word.wrapping_mul(self.factor);
        word ^ word >> 16
    }
}

fn mix(a: u32, b: u32) -> u32 {
    let mixed = a.wrapping_mul(0xca01_f9dd).wrapping_sub(b.wrapping_mul(0x4973_f715));
    mixed ^ mixed >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values: numpy 2.4.6.
    #[test]
    fn small_permutations_are_numpys() {
        let table: [(usize, u64, &[u32]); 12] = [
            (0, 42, &[]),
            (1, 0, &[0]),
            (1, 42, &[0]),
            (1, (1 << 40) + 7, &[0]),
            (2, 0, &[0, 1]),
            (2, 42, &[1, 0]),
            (2, (1 << 40) + 7, &[1, 0]),
            (2, u64::MAX, &[0, 1]),
            (10, 0, &[4, 6, 2, 7, 3, 5, 9, 0, 8, 1]),
            (10, 42, &[5, 6, 0, 7, 3, 2, 4, 9, 1, 8]),
            (10, (1 << 40) + 7, &[6, 2, 8, 7, 9, 3, 4, 1, 5, 0]),
            (10, u64::MAX, &[8, 7, 3, 0, 4, 6, 1, 2, 5, 9]),
        ];
        for (n, seed, expected) in table {
            assert_eq!(permutation(n, seed), expected, "n {n} seed {seed}");
        }
    }

    /// Every position counts in h = h * 1000003 + value (mod 2^64).
    #[test]
    fn large_permutations_are_numpys() {
        let table = [
            (255, 0, [89, 91, 244], 0x7f1e_c211_59d8_d7d5),
            (255, 42, [54, 143, 213], 0x32ff_db17_4e3e_41cd),
            (255, (1 << 40) + 7, [70, 164, 176], 0x89ee_66ea_8a9c_8849),
            (5000, 0, [2221, 1222, 227], 0x0e0f_02e2_ba60_a812),
            (5000, 42, [1535, 1183, 3378], 0xecd2_eed4_bef8_59f2),
            (5000, (1 << 40) + 7, [2212, 795, 977], 0xe4b4_1f8c_de2a_8e78),
            (75750, 0, [48225, 45049, 2945], 0x335d_60a4_e784_a0e5),
            (75750, 42, [56580, 74593, 13600], 0xfa46_03c7_35b5_9cf9),
            (75750, (1 << 40) + 7, [44186, 39887, 42181], 0x4b92_4264_de47_002d),
        ];
        for (n, seed, first, hash) in table {
            let order = permutation(n, seed);
            assert_eq!(order[..3], first, "n {n} seed {seed}");
            let h = order
                .iter()
                .fold(0u64, |h, &v| h.wrapping_mul(1_000_003).wrapping_add(v as u64));
            assert_eq!(h, hash, "n {n} seed {seed}");
        }
    }
}
