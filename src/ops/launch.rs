//! Launch shapes of the kernels in `kernels/`, as pure functions of the operands' shapes.
//!
//! The CUDA side of the ops and the tests that run the kernels on the host take them from here, so what is tested is what
//! runs. Nothing here asks a device: a result's bits depend on shapes only.

/// Threads of most blocks.
const BLOCK: usize = 256;
const WARP: usize = 32;

/// One kernel launch. An empty grid means that there is nothing to do: do not launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory.
    pub shared_bytes: u32,
}

impl Launch {
    fn line(blocks: usize, threads: usize) -> Launch {
        Launch {
            grid: [blocks as u32, 1, 1],
            block: [threads as u32, 1, 1],
            shared_bytes: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.grid.contains(&0)
    }
}

/// One warp for each of `n` rows.
pub fn rows(n: usize) -> Launch {
    Launch::line(n.div_ceil(BLOCK / WARP), BLOCK)
}

/// One thread for each eight of `count` values.
pub fn eights(count: usize) -> Launch {
    Launch::line(count.div_ceil(8 * BLOCK), BLOCK)
}

/// One thread for each of `d` columns.
pub fn columns(d: usize) -> Launch {
    Launch::line(d.div_ceil(BLOCK), BLOCK)
}

/// One block for each of `b` rows of logits.
pub fn cross_entropy(b: usize) -> Launch {
    Launch::line(b, BLOCK)
}

/// One block, for the last stage of a sum.
pub fn single_block() -> Launch {
    Launch::line(1, BLOCK)
}

/// One block for each 4096 of `n` gradients; as many partial sums.
pub fn gradient_norm(n: usize) -> Launch {
    Launch::line(n.div_ceil(4096), BLOCK)
}

/// One thread for each eight values of an image of `block` values, `b` images.
pub fn dropout(b: usize, block: usize) -> Launch {
    Launch {
        grid: [block.div_ceil(8 * BLOCK) as u32, b as u32, 1],
        ..Launch::line(1, BLOCK)
    }
}

/// A sum over n rows in two stages: `parts` partial sums of `rows` rows each, then their sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSums {
    pub launch: Launch,
    pub rows: u32,
    pub parts: u32,
}

impl RowSums {
    /// Tiles of 256 columns, 32 lanes of eight columns by 8 rows; at most 256 parts, each of at least 64 rows.
    pub fn new(n: usize, d: usize) -> RowSums {
        let rows = n.div_ceil(256).max(64);
        let parts = n.div_ceil(rows);
        RowSums {
            launch: Launch {
                grid: [d.div_ceil(8 * WARP) as u32, parts as u32, 1],
                block: [WARP as u32, 8, 1],
                shared_bytes: 0,
            },
            rows: rows as u32,
            parts: parts as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_cover_their_operands() {
        for n in [0, 1, 7, 8, 9, 197, 25_216] {
            assert!(rows(n).grid[0] as usize * 8 >= n && rows(n).is_empty() == (n == 0));
            assert!(eights(n).grid[0] as usize * 2048 >= n && eights(n).is_empty() == (n == 0));
            let sums = RowSums::new(n, 768);
            assert!((sums.rows * sums.parts) as usize >= n && sums.parts <= 256);
            assert_eq!(sums.launch.is_empty(), n == 0);
        }
    }
}
