//! Pictures of shapes and patterns, each a pure function of (motif, seed, number).
//!
//! Everything but the motif varies: size of the image, colours, background, place, scale and rotation of the shapes, noise,
//! lines across, JPEG quality. Each picture shows several shapes, so that a crop of it still shows some.

use std::f64::consts::{PI, TAU};

use turbojpeg::{Image, PixelFormat, Subsamp};

use crate::rng::{Purpose, Stream};

/// What a picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Motif {
    Bars,
    Checkers,
    Crescents,
    Crosses,
    Discs,
    Ellipses,
    Grids,
    HalfDiscs,
    Rings,
    Squares,
    Stars,
    Stripes,
    Targets,
    Triangles,
    Waves,
    Zigzags,
}

impl Motif {
    /// Name of the class.
    pub fn name(self) -> &'static str {
        match self {
            Motif::Bars => "bars",
            Motif::Checkers => "checkers",
            Motif::Crescents => "crescents",
            Motif::Crosses => "crosses",
            Motif::Discs => "discs",
            Motif::Ellipses => "ellipses",
            Motif::Grids => "grids",
            Motif::HalfDiscs => "half_discs",
            Motif::Rings => "rings",
            Motif::Squares => "squares",
            Motif::Stars => "stars",
            Motif::Stripes => "stripes",
            Motif::Targets => "targets",
            Motif::Triangles => "triangles",
            Motif::Waves => "waves",
            Motif::Zigzags => "zigzags",
        }
    }

    /// Whether the motif covers a point of the plane, one period of the pattern being 1; `None` for single shapes.
    fn pattern(self, x: f64, y: f64) -> Option<bool> {
        let phase = |v: f64| v - v.floor();
        let in_half = |v: f64| phase(v) < 0.5;
        Some(match self {
            Motif::Checkers => in_half(x) != in_half(y),
            Motif::Grids => phase(x) < 0.22 || phase(y) < 0.22,
            Motif::Stripes => in_half(x),
            Motif::Targets => in_half(x.hypot(y) * 1.3),
            Motif::Waves => in_half(x + 0.42 * (y * PI).sin()),
            Motif::Zigzags => in_half(x + 1.2 * (phase(y * 0.6) - 0.5).abs()),
            _ => return None,
        })
    }

    /// Whether a shape covers a point; it lies within the circle of radius 1 around 0.
    fn shape(self, x: f64, y: f64) -> bool {
        let radius = x.hypot(y);
        match self {
            Motif::Bars => x.abs() < 0.95 && y.abs() < 0.24,
            Motif::Crescents => radius < 1.0 && (x - 0.5).hypot(y) > 0.8,
            Motif::Crosses => radius < 1.0 && (x.abs() < 0.26 || y.abs() < 0.26),
            Motif::Discs => radius < 0.9,
            Motif::Ellipses => x.hypot(y * 2.0) < 1.0,
            Motif::HalfDiscs => radius < 1.0 && y > 0.0,
            Motif::Rings => radius < 1.0 && radius > 0.58,
            Motif::Squares => x.abs().max(y.abs()) < 0.7,
            Motif::Stars => {
                // Between a tip (radius 1) and the corner beside it (radius 0.4) the edge is a straight line.
                let fifth = (y.atan2(x).rem_euclid(TAU / 5.0) - TAU / 10.0).abs();
                let (tip, corner) = (TAU / 10.0, 0.4);
                let edge = corner * tip.sin() / (corner * fifth.sin() + (tip - fifth).sin());
                radius < edge
            }
            Motif::Triangles => y > -0.5 && 3f64.sqrt() * x.abs() + y < 1.0,
            _ => false,
        }
    }
}

/// Numbers of one picture, taken one after the other.
struct Dice {
    stream: Stream,
    next: u32,
}

impl Dice {
    fn real(&mut self, from: f64, to: f64) -> f64 {
        let unit = self.stream.uniform(self.next);
        self.next += 1;
        from + unit * (to - from)
    }

    fn whole(&mut self, from: usize, to: usize) -> usize {
        (self.real(from as f64, (to + 1) as f64) as usize).min(to)
    }

    fn colour(&mut self) -> [f64; 3] {
        std::array::from_fn(|_| self.real(0.0, 255.0))
    }

    /// A colour whose brightness differs clearly from that of `other`.
    fn colour_against(&mut self, other: [f64; 3]) -> [f64; 3] {
        const CLEARLY: f64 = 70.0;
        for _ in 0..32 {
            let colour = self.colour();
            if (brightness(colour) - brightness(other)).abs() > CLEARLY {
                return colour;
            }
        }
        let opposite = if brightness(other) > 127.0 { 20.0 } else { 235.0 };
        [opposite; 3]
    }
}

fn brightness([red, green, blue]: [f64; 3]) -> f64 {
    0.3 * red + 0.6 * green + 0.1 * blue
}

fn blend(a: [f64; 3], b: [f64; 3], part_of_b: f64) -> [f64; 3] {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * part_of_b)
}

/// A canvas of RGB values, rows from the top.
struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<[f64; 3]>,
}

impl Canvas {
    /// Paints `colour` where `covers` says so, with four samples a pixel; coordinates are in pixels.
    fn paint(&mut self, bounds: [f64; 4], colour: [f64; 3], covers: impl Fn(f64, f64) -> bool) {
        let [left, top, right, bottom] = bounds;
        let cut = |v: f64, end: usize| v.clamp(0.0, end as f64) as usize;
        for y in cut(top.floor(), self.height)..cut(bottom.ceil(), self.height) {
            for x in cut(left.floor(), self.width)..cut(right.ceil(), self.width) {
                let samples = [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)];
                let hit = samples
                    .iter()
                    .filter(|(dx, dy)| covers(x as f64 + dx, y as f64 + dy))
                    .count();
                if hit > 0 {
                    let pixel = &mut self.pixels[y * self.width + x];
                    *pixel = blend(*pixel, colour, hit as f64 / 4.0);
                }
            }
        }
    }
}

/// The picture number `number` of a motif, as JPEG.
pub(super) fn draw(motif: Motif, seed: u64, number: u64) -> Vec<u8> {
    let stream = |of: u32| Stream::new(seed, 0, number, Purpose::Augment(2 * motif as u32 + of));
    let mut dice = Dice {
        stream: stream(0),
        next: 0,
    };
    let mut canvas = background(&mut dice);
    let (width, height) = (canvas.width as f64, canvas.height as f64);
    let everywhere = [0.0, 0.0, width, height];
    let short_side = width.min(height);
    let ground = canvas.pixels[canvas.pixels.len() / 2];
    let colour = dice.colour_against(ground);

    for _ in 0..dice.whole(0, 3) {
        let (x, y) = (dice.real(0.0, width), dice.real(0.0, height));
        let (sin, cos) = dice.real(0.0, PI).sin_cos();
        let (thick, line) = (dice.real(0.6, 2.0), dice.colour());
        canvas.paint(everywhere, line, |px, py| {
            ((px - x) * sin - (py - y) * cos).abs() < thick
        });
    }

    if motif.pattern(0.0, 0.0).is_some() {
        let period = short_side * dice.real(0.16, 0.3);
        let angle = dice.real(0.0, TAU);
        let (x, y) = (dice.real(0.0, width), dice.real(0.0, height));
        let (sin, cos) = (angle.sin() / period, angle.cos() / period);
        canvas.paint(everywhere, colour, |px, py| {
            let (dx, dy) = (px - x, py - y);
            motif.pattern(dx * cos + dy * sin, dy * cos - dx * sin).unwrap_or(false)
        });
    } else {
        shapes(&mut canvas, &mut dice, motif, ground, colour);
    }

    let noise = stream(1);
    let strength = dice.real(2.0, 14.0);
    let quality = dice.whole(75, 95);
    encode(&canvas, noise, strength, quality as i32)
}

/// A gradient between two related colours, in any direction.
fn background(dice: &mut Dice) -> Canvas {
    let (width, height) = (dice.whole(160, 320), dice.whole(160, 320));
    let first = dice.colour();
    let toward = dice.colour();
    let second = blend(first, toward, dice.real(0.0, 0.35));
    let angle = dice.real(0.0, TAU);
    let (sin, cos) = angle.sin_cos();
    let reach = (width as f64 * cos.abs() + height as f64 * sin.abs()) / 2.0;
    let at = |x: usize, y: usize| {
        let along = (x as f64 - width as f64 / 2.0) * cos + (y as f64 - height as f64 / 2.0) * sin;
        blend(first, second, (along / reach + 1.0) / 2.0)
    };
    Canvas {
        width,
        height,
        pixels: (0..height)
            .flat_map(|y| (0..width).map(move |x| (x, y)))
            .map(|(x, y)| at(x, y))
            .collect(),
    }
}

/// One shape in each cell of a loose grid, moved, turned and scaled at random.
fn shapes(canvas: &mut Canvas, dice: &mut Dice, motif: Motif, ground: [f64; 3], colour: [f64; 3]) {
    let (columns, rows) = (dice.whole(2, 3), dice.whole(2, 3));
    let cell = (canvas.width as f64 / columns as f64, canvas.height as f64 / rows as f64);
    let second = dice.colour_against(ground);
    for place in 0..columns * rows {
        let radius = 0.5 * cell.0.min(cell.1) * dice.real(0.6, 0.95);
        let x = cell.0 * ((place % columns) as f64 + dice.real(0.35, 0.65));
        let y = cell.1 * ((place / columns) as f64 + dice.real(0.35, 0.65));
        let angle = dice.real(0.0, TAU);
        let paint = if dice.real(0.0, 1.0) < 0.7 { colour } else { second };
        let (sin, cos) = (angle.sin() / radius, angle.cos() / radius);
        let bounds = [x - radius, y - radius, x + radius, y + radius];
        canvas.paint(bounds, paint, |px, py| {
            let (dx, dy) = (px - x, py - y);
            motif.shape(dx * cos + dy * sin, dy * cos - dx * sin)
        });
    }
}

fn encode(canvas: &Canvas, noise: Stream, strength: f64, quality: i32) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(canvas.pixels.len() * 3);
    for (pixel, number) in canvas.pixels.iter().zip(0u32..) {
        let block = noise.block(number);
        for channel in 0..3 {
            let unit = block[channel] as f64 / u32::MAX as f64 * 2.0 - 1.0;
            rgb.push((pixel[channel] + unit * strength).clamp(0.0, 255.0).round() as u8);
        }
    }
    let image = Image {
        pixels: rgb.as_slice(),
        width: canvas.width,
        pitch: canvas.width * 3,
        height: canvas.height,
        format: PixelFormat::RGB,
    };
    let jpeg = turbojpeg::compress(image, quality, Subsamp::Sub2x2).expect("an image of our own making can be encoded");
    jpeg.to_vec()
}
