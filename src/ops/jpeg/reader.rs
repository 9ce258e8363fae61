//! The entropy decoding of MCU after MCU, across restart markers.

use super::frame::MOST_COMPONENTS;
use super::huffman::{FirstTable, Table};
use super::kernels::{BLOCKS_AT_ONCE, Kernels};
use super::scan::{Bits, Block, CleanScan};

/// MCUs whose blocks are kept together until they are transformed.
pub(super) const GROUP: usize = BLOCKS_AT_ONCE;
/// Most blocks of a component in a group.
pub(super) const GROUP_BLOCKS: usize = GROUP * 4;

/// Coefficients of a group of MCUs, by component.
pub(super) type Groups = [[Block; GROUP_BLOCKS]; MOST_COMPONENTS];

/// A block of an MCU, in the order of the scan.
#[derive(Clone, Copy)]
pub(super) struct CodedBlock<'a> {
    pub component: usize,
    /// In a group, of the first MCU's block; those of the next MCU stand `across` further.
    pub place: usize,
    pub across: usize,
    pub dc: &'a FirstTable,
    pub ac: &'a Table,
}

/// Reads MCU after MCU.
pub(super) struct Reader<'a> {
    scan: &'a CleanScan,
    bits: Bits<'a>,
    interval: usize,
    restart_interval: usize,
    until_restart: usize,
    predictions: [i32; MOST_COMPONENTS],
    blocks: &'a [CodedBlock<'a>],
    kernels: Kernels,
}

impl<'a> Reader<'a> {
    /// `blocks` are those of an MCU. None: the scan has no data.
    pub fn new(
        scan: &'a CleanScan,
        restart_interval: usize,
        blocks: &'a [CodedBlock<'a>],
        kernels: Kernels,
    ) -> Option<Reader<'a>> {
        Some(Reader {
            scan,
            bits: scan.interval(0)?,
            interval: 0,
            restart_interval,
            until_restart: restart_interval,
            predictions: [0; MOST_COMPONENTS],
            blocks,
            kernels,
        })
    }

    /// Passes over `count` MCUs. None: damage.
    pub fn skip(&mut self, count: usize) -> Option<()> {
        match self.kernels {
            Kernels::Scalar => self.skip_any(count),
            // SAFETY: the variant exists only where these instructions are.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 | Kernels::Avx512 => unsafe { self.skip_bmi(count) },
        }
    }

    /// Decodes `count` MCUs. None: damage.
    pub fn keep(&mut self, count: usize, groups: &mut Groups) -> Option<()> {
        match self.kernels {
            Kernels::Scalar => self.keep_any(count, groups),
            // SAFETY: the variant exists only where these instructions are.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 | Kernels::Avx512 => unsafe { self.keep_bmi(count, groups) },
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "bmi1,bmi2,movbe")]
    fn skip_bmi(&mut self, count: usize) -> Option<()> {
        self.skip_any(count)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,movbe")]
    fn keep_bmi(&mut self, count: usize, groups: &mut Groups) -> Option<()> {
        self.keep_any(count, groups)
    }

    #[inline(always)]
    fn skip_any(&mut self, count: usize) -> Option<()> {
        for _ in 0..count {
            self.begin_mcu()?;
            let mut bits = self.bits; // a copy of its own stays in registers
            for block in self.blocks {
                bits.pass_block(block.dc, block.ac, &mut self.predictions[block.component])?;
            }
            self.bits = bits;
            if self.bits.is_past_end() {
                return None;
            }
        }
        Some(())
    }

    #[inline(always)]
    fn keep_any(&mut self, count: usize, groups: &mut Groups) -> Option<()> {
        for mcu in 0..count {
            self.begin_mcu()?;
            let mut bits = self.bits;
            for block in self.blocks {
                let to = &mut groups[block.component][block.place + mcu * block.across];
                *to = [0; 72];
                bits.read_block(block.dc, block.ac, &mut self.predictions[block.component], to)?;
            }
            self.bits = bits;
            if self.bits.is_past_end() {
                return None;
            }
        }
        Some(())
    }

    /// Goes over to the next restart interval where one begins.
    #[inline(always)]
    fn begin_mcu(&mut self) -> Option<()> {
        if self.restart_interval > 0 {
            if self.until_restart == 0 {
                self.interval += 1;
                self.bits = self.scan.interval(self.interval)?;
                self.predictions = [0; MOST_COMPONENTS];
                self.until_restart = self.restart_interval;
            }
            self.until_restart -= 1;
        }
        Some(())
    }
}
