//! Launch shapes of the kernels in `kernels/`, as pure functions of the operands' shapes.
//!
//! The CUDA side of the ops and the tests that run the kernels on the host take them from here, so what is tested is what
//! runs. Nothing here asks a device: a result's bits depend on shapes only.

mod channels;

pub use channels::{ChannelRows, ConvolutionTiles, UNFOLDED_BYTES, pieces, pixels};

/// Threads of most blocks.
const BLOCK: usize = 256;
const WARP: usize = 32;

/// One kernel launch. An empty grid means that there is nothing to do: do not launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory. Above 48 KB the kernel must be told first (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES).
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

/// One thread for each of `n` values of `count` adapters in `layers` layers.
pub fn place(n: usize, count: usize, layers: usize) -> Launch {
    Launch {
        grid: [n.div_ceil(BLOCK) as u32, count as u32, layers as u32],
        ..Launch::line(0, BLOCK)
    }
}

/// One block for each of `b` rows of logits.
pub fn cross_entropy(b: usize) -> Launch {
    Launch::line(b, BLOCK)
}

/// One thread for each eight of `count` values of each of `b` images.
pub fn images(b: usize, count: usize) -> Launch {
    Launch {
        grid: [count.div_ceil(8 * BLOCK) as u32, b as u32, 1],
        ..Launch::line(0, BLOCK)
    }
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

/// `preprocess`: a thread makes one column of `strip` rows of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preprocess {
    pub launch: Launch,
    pub strip: u32,
}

impl Preprocess {
    /// Strips are as high as leaves enough blocks for a large GPU: where one begins, rows of the picture are read again.
    pub fn new(b: usize, height: usize, width: usize) -> Preprocess {
        const BLOCKS: usize = 1024;
        let tiles = width.div_ceil(BLOCK);
        let threads = width.div_ceil(tiles).next_multiple_of(WARP);
        let strips = BLOCKS.div_ceil((b * tiles).max(1)).clamp(1, height.div_ceil(16));
        let strip = height.div_ceil(strips).next_multiple_of(4);
        Preprocess {
            launch: Launch {
                grid: [height.div_ceil(strip) as u32, tiles as u32, b as u32],
                ..Launch::line(1, threads)
            },
            strip: strip as u32,
        }
    }
}

/// `erase`: a few blocks for each channel of each of `b` samples.
pub fn erase(b: usize) -> Launch {
    Launch {
        grid: [4, 3, b as u32],
        ..Launch::line(0, BLOCK)
    }
}

/// What attention is computed on: b images, heads, sq queries and s keys of each, head width e.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    pub b: usize,
    pub heads: usize,
    pub sq: usize,
    pub s: usize,
    pub e: usize,
}

impl AttentionShape {
    /// The head width that `attention.cu` is made for.
    pub const TILED: usize = 64;

    /// Floats in a tile of 64 rows and in one of 32, each row with four more for the banks' sake.
    const TILE: usize = 64 * 68;
    const HALF_TILE: usize = 32 * 68;

    /// `attention_forward`: a block takes 64 queries; tiles of queries, keys, scores.
    pub fn queries(self) -> Launch {
        self.tiles(self.sq, 3 * Self::TILE)
    }

    /// `attention_backward_q`: one tile more.
    pub fn queries_backward(self) -> Launch {
        self.tiles(self.sq, 4 * Self::TILE)
    }

    /// `attention_backward_kv`: a block takes 64 keys; two tiles of keys and values, four of 32 queries.
    pub fn keys_backward(self) -> Launch {
        self.tiles(self.s, 2 * Self::TILE + 4 * Self::HALF_TILE)
    }

    /// `attention_diagonal`: a warp for each query of each head.
    pub fn diagonal(self) -> Launch {
        rows(self.b * self.heads * self.sq)
    }

    /// `attention_rows_forward`: a block a query, which keeps its row, a score for each key, and 16 partial sums.
    pub fn rows(self) -> Launch {
        self.blocks(self.sq, self.e + self.s)
    }

    /// `attention_rows_backward_q` and `attention_first_backward`: two rows, two numbers for each key.
    pub fn rows_backward_q(self) -> Launch {
        self.blocks(self.sq, 2 * (self.e + self.s))
    }

    /// `attention_rows_backward_kv`: a block a key, two numbers for each query.
    pub fn rows_backward_kv(self) -> Launch {
        self.blocks(self.s, 2 * (self.e + self.sq))
    }

    /// `attention_tensor_forward`: a block a head; all keys and values of it in 16-bit numbers.
    pub fn tensor_forward(self) -> Launch {
        self.heads(self.sq, 2 * Self::sixteens(self.s) * Self::TILED * 2)
    }

    /// `attention_tensor_backward`: all of two operands, and two f32 for each query.
    pub fn tensor_backward(self) -> Launch {
        let (sq, s) = (Self::sixteens(self.sq), Self::sixteens(self.s));
        self.heads(
            self.sq.max(self.s),
            2 * sq.max(s) * Self::TILED * 2 + 2 * sq * size_of::<f32>(),
        )
    }

    fn sixteens(tokens: usize) -> usize {
        tokens.next_multiple_of(16)
    }

    /// A warp takes 16 tokens at a time; as few warps as end at the same time as the most that a block may have.
    fn heads(self, tokens: usize, shared_bytes: usize) -> Launch {
        const MOST_WARPS: usize = 7;
        let tiles = tokens.div_ceil(16).max(1);
        let warps = tiles.div_ceil(tiles.div_ceil(MOST_WARPS));
        Launch {
            grid: [1, self.heads as u32, self.b as u32],
            block: [(warps * WARP) as u32, 1, 1],
            shared_bytes: shared_bytes as u32,
        }
    }

    fn tiles(self, tokens: usize, floats: usize) -> Launch {
        Launch {
            grid: [tokens.div_ceil(64) as u32, self.heads as u32, self.b as u32],
            block: [BLOCK as u32, 1, 1],
            shared_bytes: (floats * size_of::<f32>()) as u32,
        }
    }

    fn blocks(self, tokens: usize, floats: usize) -> Launch {
        const PARTIAL_SUMS: usize = 16 * 64;
        Launch {
            grid: [tokens as u32, self.heads as u32, self.b as u32],
            block: [128, 1, 1],
            shared_bytes: ((floats + PARTIAL_SUMS) * size_of::<f32>()) as u32,
        }
    }
}

/// `low_rank.cu`: n rows of width d.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowRankShape {
    pub n: usize,
    pub d: usize,
}

impl LowRankShape {
    /// Rows and columns of a tile.
    pub const TILE: usize = 64;
    const THREADS: usize = 128;

    /// `low_rank_forward` and `low_rank_backward`: a block takes 64 rows.
    pub fn rows(self) -> Launch {
        Launch::line(self.n.div_ceil(Self::TILE), Self::THREADS)
    }

    /// `low_rank_gradient`: a block takes 64 columns of some rows; how many, and in how many parts. As many blocks as keep a
    /// large GPU busy twice over.
    pub fn gradient(self) -> (Launch, usize, usize) {
        const BLOCKS: usize = 288;
        let columns = self.d.div_ceil(Self::TILE);
        let wanted = BLOCKS.div_ceil(columns.max(1)).max(1);
        let rows = self.n.div_ceil(wanted).next_multiple_of(Self::TILE).max(Self::TILE);
        let parts = self.n.div_ceil(rows);
        let launch = Launch {
            grid: [columns as u32, parts as u32, 1],
            ..Launch::line(1, Self::THREADS)
        };
        (launch, rows, parts)
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
    fn preprocessing_covers_every_value_once() {
        for (b, height, width) in [(0, 224, 224), (1, 1, 1), (3, 33, 257), (128, 224, 224), (4096, 7, 1000)] {
            let Preprocess { launch, strip } = Preprocess::new(b, height, width);
            let [strips, tiles, images] = launch.grid.map(|n| n as usize);
            let (strip, threads) = (strip as usize, launch.block[0] as usize);
            assert!(strip % 4 == 0 && (strips - 1) * strip < height && strips * strip >= height);
            assert!(threads % 32 == 0 && threads <= 256);
            assert!((tiles - 1) * threads < width && tiles * threads >= width && images == b);
        }
    }

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
