//! Launch shapes of kernels over maps, whose channels lie side by side.

use super::{BLOCK, Launch, WARP};

/// Of windows that are unfolded at a time.
pub const UNFOLDED_BYTES: usize = 64 << 20;

/// One thread for each eight channels of `pixels` pixels.
pub fn pixels(pixels: usize, c: usize) -> Launch {
    Launch::line((pixels * c.div_ceil(8)).div_ceil(BLOCK), BLOCK)
}

/// Eight channels a thread, which goes down some of n rows of c channels: `parts` times `rows` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelRows {
    pub launch: Launch,
    pub rows: u32,
    pub parts: u32,
}

impl ChannelRows {
    /// A block's threads lie side by side over at most 256 channels, and below each other over rows. As many blocks as a large
    /// GPU can have at once, but at least four rows a thread.
    pub fn new(n: usize, c: usize) -> ChannelRows {
        const BLOCKS: usize = 1024;
        let eights = c.div_ceil(8);
        let lanes = eights.next_power_of_two().min(WARP);
        let groups = BLOCK / lanes;
        let across = eights.div_ceil(lanes);
        let wanted = BLOCKS.div_ceil(across.max(1));
        let rows = n.div_ceil(wanted).next_multiple_of(groups).max(4 * groups);
        let parts = n.div_ceil(rows);
        ChannelRows {
            launch: Launch {
                grid: [across as u32, parts as u32, 1],
                block: [lanes as u32, groups as u32, 1],
                shared_bytes: 0,
            },
            rows: rows as u32,
            parts: parts as u32,
        }
    }
}

/// `convolution_tensor`: a block makes 128 places by 128 or 64 of n channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvolutionTiles {
    pub launch: Launch,
    pub kernel: &'static str,
}

impl ConvolutionTiles {
    pub fn new(rows: usize, n: usize) -> ConvolutionTiles {
        // Of a row in shared memory, and rows on their way: those of three steps.
        const ROW_BYTES: usize = 2 * (32 + 8);
        const STEPS: usize = 3;
        const PLACES: usize = 128;
        let (channels, kernel) = match n % 128 {
            0 => (128, "convolution_tensor_128"),
            _ => (64, "convolution_tensor_64"),
        };
        ConvolutionTiles {
            launch: Launch {
                shared_bytes: (STEPS * (PLACES + channels) * ROW_BYTES) as u32,
                ..Launch::line(rows.div_ceil(PLACES) * n.div_ceil(channels), BLOCK)
            },
            kernel,
        }
    }
}

/// First row and number of rows of each piece of `rows` rows that are to be unfolded, of so many bytes each.
///
/// 64 MiB at a time leave a product enough tiles for every part of a large GPU; pieces are of one size, whole tiles.
pub fn pieces(rows: usize, row_bytes: usize) -> impl Iterator<Item = (usize, usize)> {
    const TILE: usize = 256;
    let count = (rows * row_bytes).div_ceil(UNFOLDED_BYTES).max(1);
    let each = rows.div_ceil(count).next_multiple_of(TILE);
    (0..rows)
        .step_by(each.max(1))
        .map(move |first| (first, each.min(rows - first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_and_channel_has_a_thread() {
        for n in [0, 1, 63, 64, 1000, 1_605_632] {
            for c in [1, 3, 8, 20, 64, 250, 256, 2048] {
                let ChannelRows { launch, rows, parts } = ChannelRows::new(n, c);
                let [lanes, groups, _] = launch.block.map(|n| n as usize);
                assert!(lanes * groups == 256 && launch.grid[0] as usize * lanes * 8 >= c);
                assert!((rows * parts) as usize >= n && ((rows * parts) as usize) < n + rows as usize);
                assert!(launch.grid[1] == parts && launch.is_empty() == (n == 0));
                assert!(pixels(n, c).grid[0] as usize * 256 * 8 >= n * c);
            }
        }
    }
    #[test]
    fn pieces_are_all_rows_in_order() {
        for (rows, bytes) in [
            (0, 8),
            (1, 8),
            (1000, 1 << 16),
            (401_408, 1152),
            (6272, 9216),
            (1_605_632, 304),
        ] {
            let mut next = 0;
            for (first, count) in pieces(rows, bytes) {
                assert!(first == next && count > 0 && count * bytes <= UNFOLDED_BYTES + 256 * bytes);
                next += count;
            }
            assert_eq!(next, rows);
        }
    }
}
