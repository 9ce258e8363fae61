//! The decoder of plain JPEG files: a rectangle of R, G and B, computed from no more blocks than it needs.
//!
//! Huffman coding has no entry points, so everything before the rectangle must be read, but it is only passed over; behind
//! the rectangle nothing is read. Whatever is damaged or unusual is declined (None), and libjpeg-turbo decides.

mod raster;

use raster::{Raster, Window, blocks_of};

use super::frame::{Frame, MOST_COMPONENTS, Sampling};
use super::huffman::{FirstTable, Table};
use super::kernels::{Chroma, ChromaLine, Kernels, Steps};
use super::reader::{CodedBlock, GROUP, GROUP_BLOCKS, Groups, Reader};
use super::scan::{CleanScan, ZIGZAG};
use super::{Rect, Scale};
use crate::ops::resample::{Planes, ROW_SLACK};

/// Chroma of smaller pictures is upsampled in another way.
const LEAST_WIDTH: usize = 8;
/// Of an MCU: four of luma and two of chroma.
const MOST_BLOCKS: usize = 6;

/// Keeps its memory, and tables that the next file may share.
pub struct PlainDecoder {
    kernels: Kernels,
    scan: CleanScan,
    first_tables: Kept<FirstTable>,
    tables: Kept<Table>,
    components: [Samples; MOST_COMPONENTS],
    blocks: Box<Groups>,
    lines: [ChromaLine; 2],
}

/// A plain file, ready to be decoded.
pub struct PlainFile<'a>(Frame<'a>);

impl<'a> PlainFile<'a> {
    /// None: not a plain file.
    pub fn open(bytes: &'a [u8]) -> Option<PlainFile<'a>> {
        let frame = Frame::read(bytes)?;
        (frame.width >= LEAST_WIDTH).then_some(PlainFile(frame))
    }

    /// Width and height.
    pub fn size(&self) -> (usize, usize) {
        (self.0.width, self.0.height)
    }
}

/// Samples of a component in the MCUs that the rectangle needs.
#[derive(Default)]
struct Samples {
    bytes: Vec<u8>,
    stride: usize,
    /// Column and row of the first sample.
    origin: (usize, usize),
}

impl Samples {
    fn row(&self, y: usize) -> &[u8] {
        &self.bytes[(y - self.origin.1) * self.stride..][..self.stride]
    }
}

/// Tables by their definition in the file, the most recently wanted first.
struct Kept<T>(Vec<(Vec<u8>, Box<T>)>);

/// Two files' worth.
const MOST_TABLES: usize = 4;

impl<T> Kept<T> {
    fn want(&mut self, definition: &[u8], new: impl FnOnce(&[u8]) -> Option<T>) -> Option<()> {
        let entry = match self.0.iter().position(|(of, _)| of == definition) {
            Some(at) => self.0.remove(at),
            None => (definition.to_vec(), Box::new(new(definition)?)),
        };
        self.0.insert(0, entry);
        self.0.truncate(MOST_TABLES);
        Some(())
    }

    fn get(&self, definition: &[u8]) -> Option<&T> {
        self.0
            .iter()
            .find(|(of, _)| of == definition)
            .map(|(_, table)| &**table)
    }
}

impl Default for PlainDecoder {
    fn default() -> PlainDecoder {
        PlainDecoder::with(Kernels::best())
    }
}

impl PlainDecoder {
    pub(super) fn with(kernels: Kernels) -> PlainDecoder {
        PlainDecoder {
            kernels,
            scan: CleanScan::default(),
            first_tables: Kept(Vec::new()),
            tables: Kept(Vec::new()),
            components: Default::default(),
            blocks: Box::new([[[0; 72]; GROUP_BLOCKS]; MOST_COMPONENTS]),
            lines: Default::default(),
        }
    }

    /// Decodes at least `rect` into `rgb`, equal to a whole decode by libjpeg. None: the file is damaged.
    pub fn decode(&mut self, file: &PlainFile<'_>, rect: Rect, rgb: &mut Planes) -> Option<()> {
        self.decode_at(Scale::Full, file, rect, rgb)
    }

    /// Decodes at least `rect`, counted in the picture of this scale, into `rgb`. None: the file is damaged.
    pub fn decode_at(&mut self, scale: Scale, file: &PlainFile<'_>, rect: Rect, rgb: &mut Planes) -> Option<()> {
        let frame = &file.0;
        let raster = Raster::new(frame, scale);
        assert!(
            rect.right() <= raster.width && rect.bottom() <= raster.height,
            "rectangle outside of the image"
        );
        self.scan.read(frame.scan, frame.restart_interval)?;
        let window = Window::around(rect, frame, &raster);
        self.prepare(frame, &raster, &window)?;
        self.read_blocks(frame, &raster, &window)?;
        self.write_rows(&raster, rect, rgb);
        Some(())
    }

    /// Tables and room for samples.
    fn prepare(&mut self, frame: &Frame<'_>, raster: &Raster, window: &Window) -> Option<()> {
        for component in &frame.components[..frame.sampling.components()] {
            self.first_tables
                .want(frame.huffman[0][component.dc_table]?, FirstTable::new)?;
            self.tables.want(frame.huffman[1][component.ac_table]?, Table::new)?;
        }
        for (number, samples) in self.components[..frame.sampling.components()].iter_mut().enumerate() {
            let (across, down) = blocks_of(frame.sampling, number);
            let columns = (window.columns.1 - window.columns.0).next_multiple_of(GROUP);
            let side = raster.block(frame.sampling, number);
            samples.stride = columns * across * side + ROW_SLACK;
            samples.origin = (window.columns.0 * across * side, window.rows.0 * down * side);
            let bytes = samples.stride * (window.rows.1 - window.rows.0) * down * side + ROW_SLACK;
            if samples.bytes.len() < bytes {
                samples.bytes.resize(bytes, 0);
            }
        }
        Some(())
    }

    /// Reads the scan up to the last MCU of the window.
    fn read_blocks(&mut self, frame: &Frame<'_>, raster: &Raster, window: &Window) -> Option<()> {
        let block_of = |number: usize, block: usize| {
            let component = frame.components[number];
            let (across, _) = blocks_of(frame.sampling, number);
            Some(CodedBlock {
                component: number,
                // Within a group the blocks of a row stand side by side.
                place: block / across * GROUP * across + block % across,
                across,
                dc: self.first_tables.get(frame.huffman[0][component.dc_table]?)?,
                ac: self.tables.get(frame.huffman[1][component.ac_table]?)?,
            })
        };
        // Arrays, since no memory is asked for by the picture.
        let mut coded = [block_of(0, 0)?; MOST_BLOCKS];
        let mut coded_blocks = 0;
        let mut steps: [Steps; MOST_COMPONENTS] = std::array::from_fn(|_| Steps([0; 64]));
        for (number, steps) in steps[..frame.sampling.components()].iter_mut().enumerate() {
            let (across, down) = blocks_of(frame.sampling, number);
            for block in 0..across * down {
                coded[coded_blocks] = block_of(number, block)?;
                coded_blocks += 1;
            }
            *steps = steps_of(frame.quantization(number)?);
        }
        let coded = &coded[..coded_blocks];
        let mut reader = Reader::new(&self.scan, frame.restart_interval, coded, self.kernels)?;
        for row in 0..window.rows.1 {
            if row < window.rows.0 {
                reader.skip(window.across)?;
                continue;
            }
            reader.skip(window.columns.0)?;
            for first in (window.columns.0..window.columns.1).step_by(GROUP) {
                let count = GROUP.min(window.columns.1 - first);
                reader.keep(count, &mut self.blocks)?;
                for (number, samples) in self.components[..frame.sampling.components()].iter_mut().enumerate() {
                    let (across, down) = blocks_of(frame.sampling, number);
                    let side = raster.block(frame.sampling, number);
                    for line in 0..down {
                        let y = ((row - window.rows.0) * down + line) * side;
                        let x = (first - window.columns.0) * across * side;
                        let blocks = &self.blocks[number][line * GROUP * across..][..GROUP * across];
                        let to = &mut samples.bytes[y * samples.stride + x..];
                        match side {
                            8 => self.kernels.transform(blocks, &steps[number], to, samples.stride),
                            _ => self.kernels.reduce(blocks, &steps[number], side, to, samples.stride),
                        }
                    }
                }
            }
            if row + 1 < window.rows.1 {
                reader.skip(window.across - window.columns.1)?;
            }
        }
        Some(())
    }

    fn write_rows(&mut self, raster: &Raster, rect: Rect, rgb: &mut Planes) {
        // Pixels of even and odd columns are converted together.
        let start = rect.x & !1;
        let width = rect.right() - start;
        rgb.reshape(start..rect.right(), rect.y..rect.bottom());
        let [luma, blue, red] = &self.components;
        let chroma_width = raster.width.div_ceil(2);
        let columns = (start / 2, rect.right().div_ceil(2));
        for y in rect.y..rect.bottom() {
            let luma_row = &luma.row(y)[start - luma.origin.0..];
            let rows = match raster.sampling {
                Sampling::Gray => {
                    for channel in 0..3 {
                        rgb.row_mut(channel, y)[..width].copy_from_slice(&luma_row[..width]);
                    }
                    continue;
                }
                Sampling::Full => {
                    let row = |samples: &'_ Samples| start - samples.origin.0;
                    let chroma = Chroma::Samples([&blue.row(y)[row(blue)..], &red.row(y)[row(red)..]]);
                    self.kernels.to_rgb(luma_row, chroma, width, rgb.rows_mut(y));
                    continue;
                }
                Sampling::HalfWidth => (y, y),
                Sampling::HalfWidthAndHeight => {
                    let last = raster.height.div_ceil(2) - 1;
                    let farther = if y % 2 == 0 {
                        (y / 2).saturating_sub(1)
                    } else {
                        y / 2 + 1
                    };
                    (y / 2, farther.min(last))
                }
            };
            for (line, samples) in self.lines.iter_mut().zip([blue, red]) {
                let rows = [samples.row(rows.0), samples.row(rows.1)];
                self.kernels
                    .blend_rows(line, rows, samples.origin.0, columns, chroma_width);
            }
            let rounding = match raster.sampling {
                Sampling::HalfWidth => Chroma::FULL_HEIGHT,
                _ => Chroma::HALF_HEIGHT,
            };
            let chroma = Chroma::Lines([&self.lines[0], &self.lines[1]], rounding);
            self.kernels.to_rgb(luma_row, chroma, width, rgb.rows_mut(y));
        }
    }
}

fn steps_of(zigzag: &[u16; 64]) -> Steps {
    let mut steps = Steps([0; 64]);
    for (k, step) in zigzag.iter().enumerate() {
        steps.0[ZIGZAG[k] as usize] = *step as i16;
    }
    steps
}
