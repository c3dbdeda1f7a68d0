//! Parts of tensors, and other shapes of the same numbers.

use super::Fault;
use super::args::{Args, Value, int, tensor};
use super::reduce::line;
use super::tape::{Source, Tape};
use super::tensor::{Kind, Tensor, axis, check_rank, count, matrix};

/// What one dimension of a tensor becomes.
enum Cut {
    /// These places of a dimension.
    Keep(Vec<usize>),
    /// One place, and the dimension is gone.
    One(usize),
    /// A dimension that was not there.
    New,
}

/// `x[…]`, and an entry of what a function returned in several parts.
pub(super) fn getitem(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let (of, key) = (args.need("input")?, args.need("index")?);
    args.end()?;
    let x = match of {
        Value::Tensor(it) => it,
        Value::Many(all) => {
            let at = int(&key, "the index")?;
            let i = if at < 0 { at + all.len() as i64 } else { at };
            let one = usize::try_from(i).ok().and_then(|it| all.get(it)).cloned();
            return one.ok_or_else(|| Fault::data(format!("there is no entry {at} in {}", all.len())));
        }
        Value::Dict(all) => {
            let found = all.into_iter().find(|it| Value::Text(it.0.clone()) == key);
            return found.map(|it| it.1).ok_or_else(|| Fault::always("there is no such key"));
        }
        _ => return Err(Fault::always("only tensors and tuples have parts")),
    };
    let keys = match key {
        Value::Many(it) => it,
        it => vec![it],
    };
    let shape = tape.get(x).shape.clone();
    let cuts = cuts(&shape, &keys)?;
    let kept: Vec<usize> = cuts
        .iter()
        .filter_map(|it| match it {
            Cut::Keep(places) => Some(places.len()),
            Cut::One(_) => None,
            Cut::New => Some(1),
        })
        .collect();
    check_rank(&kept)?;
    let all: Vec<Vec<usize>> = cuts
        .into_iter()
        .filter_map(|it| match it {
            Cut::Keep(places) => Some(places),
            Cut::One(place) => Some(vec![place]),
            Cut::New => None,
        })
        .collect();
    let index = match &all[..] {
        [] => vec![0],
        [cols] => cols.iter().map(|it| *it as u32).collect(),
        [rows, cols, ..] => {
            let width = shape[1];
            rows.iter().flat_map(|r| cols.iter().map(move |c| (r * width + c) as u32)).collect()
        }
    };
    tape.gather(x, kept, index).map(Value::Tensor)
}

fn cuts(shape: &[usize], keys: &[Value]) -> Result<Vec<Cut>, Fault> {
    let used = keys.iter().filter(|it| !matches!(it, Value::None | Value::Ellipsis)).count();
    let Some(spare) = shape.len().checked_sub(used) else {
        return Err(Fault::always(format!("{used} indices are too many for {} dimensions", shape.len())));
    };
    let mut cuts = Vec::new();
    let mut sizes = shape.iter().copied();
    let whole = |size: usize| Cut::Keep((0..size).collect());
    let mut open = true;
    for key in keys {
        match key {
            Value::None => cuts.push(Cut::New),
            Value::Ellipsis if open => {
                open = false;
                cuts.extend(sizes.by_ref().take(spare).map(whole));
            }
            Value::Ellipsis => return Err(Fault::always("an index has one ... at most")),
            key => {
                let size = sizes.next().unwrap_or(0);
                cuts.push(cut(size, key)?);
            }
        }
    }
    cuts.extend(sizes.map(whole));
    Ok(cuts)
}

fn cut(size: usize, key: &Value) -> Result<Cut, Fault> {
    match key {
        Value::Int(at) => {
            let i = if *at < 0 { at + size as i64 } else { *at };
            match usize::try_from(i) {
                Ok(i) if i < size => Ok(Cut::One(i)),
                _ => Err(Fault::data(format!("the index {at} is outside a dimension of {size}"))),
            }
        }
        Value::Slice(parts) => {
            let part = |i: usize, default: i64| match &parts[i] {
                Value::None => Ok(default),
                it => int(it, "a part of a slice"),
            };
            let step = part(2, 1)?;
            if step < 1 {
                return Err(Fault::always("the step of a slice must be positive"));
            }
            let n = size as i64;
            let place = |at: i64| if at < 0 { (at + n).max(0) } else { at.min(n) };
            let (start, end) = (place(part(0, 0)?), place(part(1, n)?));
            let step = usize::try_from(step).unwrap_or(usize::MAX);
            Ok(Cut::Keep((start as usize..end.max(start) as usize).step_by(step).collect()))
        }
        Value::Tensor(_) => {
            Err(Fault::always("indexing with a tensor is not offered here; use torch.where or gather"))
        }
        _ => Err(Fault::always("an index must be a whole number, a slice, None or ...")),
    }
}

/// Sizes given one by one or as a list.
fn sizes(args: &mut Args, name: &str) -> Result<Vec<i64>, Fault> {
    let mut all = args.rest();
    all.extend(args.named(name));
    let flat = match &all[..] {
        [Value::Many(it)] => it.clone(),
        _ => all,
    };
    flat.iter().map(|it| int(it, name)).collect()
}

pub(super) fn reshape(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let mut sizes = sizes(&mut args, "shape")?;
    args.end()?;
    let n = tape.get(x).data.len() as i64;
    let known: i64 = sizes.iter().filter(|it| 0 <= **it).fold(1, |a, b| a.saturating_mul(*b));
    if let [open] = sizes.iter().enumerate().filter(|it| *it.1 == -1).map(|it| it.0).collect::<Vec<_>>()[..] {
        if known == 0 || n % known != 0 {
            return Err(Fault::data(format!("{n} numbers do not fill {sizes:?}")));
        }
        sizes[open] = n / known;
    }
    let shape: Result<Vec<usize>, _> = sizes.iter().map(|it| usize::try_from(*it)).collect();
    let shape = shape.map_err(|_| Fault::always(format!("{sizes:?} is no shape")))?;
    check_rank(&shape)?;
    tape.reshape(x, shape).map(Value::Tensor)
}

pub(super) fn flatten(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    args.end()?;
    let n = tape.get(x).data.len();
    tape.reshape(x, vec![n]).map(Value::Tensor)
}

pub(super) fn unsqueeze(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let dim = args.int("dim")?.ok_or_else(|| Fault::always("the argument dim is missing"))?;
    args.end()?;
    let mut shape = tape.get(x).shape.clone();
    let at = axis(dim, shape.len() + 1)?;
    shape.insert(at, 1);
    check_rank(&shape)?;
    tape.reshape(x, shape).map(Value::Tensor)
}

pub(super) fn squeeze(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let dims = args.ints("dim")?;
    args.end()?;
    tape.uncertain = true;
    let shape = tape.get(x).shape.clone();
    let mut gone = vec![dims.is_none(); shape.len().max(1)];
    for dim in dims.unwrap_or_default() {
        gone[axis(dim, shape.len())?] = true;
    }
    let left =
        shape.iter().zip(&gone).filter(|(size, gone)| **size != 1 || !**gone).map(|it| *it.0).collect();
    tape.reshape(x, left).map(Value::Tensor)
}

/// `x.t()`, `x.T` and `x.transpose(0, 1)`.
pub(super) fn transpose(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let rank = tape.get(x).shape.len();
    let dims = [args.int("dim0")?, args.int("dim1")?];
    args.end()?;
    if let [Some(a), Some(b)] = dims
        && axis(a, rank)? == axis(b, rank)?
    {
        return Ok(Value::Tensor(x));
    }
    let (rows, cols) = matrix(&tape.get(x).shape);
    if rank < 2 {
        return Ok(Value::Tensor(x));
    }
    let index = (0..cols).flat_map(|c| (0..rows).map(move |r| (r * cols + c) as u32)).collect();
    tape.gather(x, vec![cols, rows], index).map(Value::Tensor)
}

/// `expand` and `broadcast_to`; `as_other` takes the shape of another tensor.
pub(super) fn expand(tape: &mut Tape, mut args: Args, as_other: bool) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let shape = if as_other {
        let other = args.tensor(tape, "other")?;
        tape.get(other).shape.clone()
    } else {
        let (sizes, own) = (sizes(&mut args, "size")?, tape.get(x).shape.clone());
        let offset = sizes.len().saturating_sub(own.len());
        let size = |i: usize| match usize::try_from(sizes[i]) {
            Ok(it) => Ok(it),
            // Such a size stays as it is.
            Err(_) => {
                let kept = i.checked_sub(offset).and_then(|it| own.get(it).copied());
                kept.ok_or_else(|| Fault::always(format!("{sizes:?} is no shape")))
            }
        };
        (0..sizes.len()).map(size).collect::<Result<Vec<_>, _>>()?
    };
    args.end()?;
    check_rank(&shape)?;
    tape.spread(x, &shape).map(Value::Tensor)
}

/// `flip`.
pub(super) fn flip(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let dims = sizes(&mut args, "dims")?;
    args.end()?;
    let shape = tape.get(x).shape.clone();
    let mut turned = [false; 2];
    for dim in dims {
        turned[axis(dim, shape.len())?] = true;
    }
    let (rows, cols) = matrix(&shape);
    let [first, second] = if shape.len() == 2 { turned } else { [false, turned[0]] };
    let place = |r: usize, c: usize| {
        let (r, c) = (if first { rows - 1 - r } else { r }, if second { cols - 1 - c } else { c });
        (r * cols + c) as u32
    };
    let index = (0..rows).flat_map(|r| (0..cols).map(move |c| place(r, c))).collect();
    tape.gather(x, shape, index).map(Value::Tensor)
}

/// `gather(x, dim, index)`.
pub(super) fn gather(tape: &mut Tape, mut args: Args) -> Result<Value, Fault> {
    let x = args.input(tape)?;
    let dim = args.int("dim")?.ok_or_else(|| Fault::always("the argument dim is missing"))?;
    let index = args.tensor(tape, "index")?;
    args.end()?;
    let (of, at) = (tape.get(x), tape.get(index));
    if at.kind == Kind::Float {
        return Err(Fault::data("the index must hold whole numbers"));
    }
    if of.shape.len() != at.shape.len() {
        return Err(Fault::always("the index must have as many dimensions as the tensor"));
    }
    let axis = axis(dim, of.shape.len())?;
    let (len, _) = line(&of.shape, axis);
    let ((_, width), (rows, cols)) = (matrix(&of.shape), matrix(&at.shape));
    let along_rows = of.shape.len() == 2 && axis == 0;
    if (along_rows && width < cols) || (!along_rows && matrix(&of.shape).0 < rows) {
        return Err(Fault::data(format!("an index of {:?} reaches outside {:?}", at.shape, of.shape)));
    }
    let mut places = Vec::with_capacity(at.data.len());
    for r in 0..rows {
        for c in 0..cols {
            let it = at.data[r * cols + c];
            if !(0.0 <= it && it < len as f64) {
                return Err(Fault::data(format!("the index {it} is outside a dimension of {len}")));
            }
            let it = it as usize;
            places.push(if along_rows { it * width + c } else { r * width + it } as u32);
        }
    }
    let shape = at.shape.clone();
    tape.gather(x, shape, places).map(Value::Tensor)
}

/// `cat`, or with `new` `stack`.
pub(super) fn join(tape: &mut Tape, mut args: Args, new: bool) -> Result<Value, Fault> {
    let Value::Many(parts) = args.need("tensors")? else {
        return Err(Fault::always("tensors must be a list"));
    };
    let dim = args.int("dim")?.unwrap_or(0);
    args.end()?;
    let parts: Vec<usize> =
        parts.into_iter().map(|it| tensor(tape, it, "tensors")).collect::<Result<_, _>>()?;
    let Some(first) = parts.first() else { return Err(Fault::always("there is nothing to join")) };
    let own = tape.get(*first).shape.clone();
    let axis = axis(dim, own.len() + usize::from(new))?;
    // Each part as it will stand in the whole.
    let stands = |shape: &[usize]| {
        let mut shape = shape.to_vec();
        if new {
            shape.insert(axis, 1);
        }
        shape
    };
    let mut whole = stands(&own);
    check_rank(&whole)?;
    if whole.is_empty() {
        return Err(Fault::always("scalars are joined with stack"));
    }
    whole[axis] = 0;
    let (mut kind, mut data) = (Kind::Bool, Vec::new());
    for part in &parts {
        let it = tape.get(*part);
        let shape = stands(&it.shape);
        let fits = shape.len() == whole.len() && (0..whole.len()).all(|i| i == axis || shape[i] == whole[i]);
        if !fits {
            return Err(Fault::data(format!("the shapes {own:?} and {:?} cannot be joined", it.shape)));
        }
        whole[axis] += shape[axis];
        kind = kind.max(it.kind);
        data.extend_from_slice(&it.data);
    }
    let widths: Vec<usize> = parts.iter().map(|it| matrix(&stands(&tape.get(*it).shape)).1).collect();
    let flat = tape.push(Tensor::new(kind, vec![data.len()], data), Source::Join(parts))?;
    let (rows, cols) = matrix(&whole);
    let index = if whole.len() == 2 && axis == 1 {
        // The parts lie one after the other; each row of the whole takes a row of each.
        let mut index = Vec::with_capacity(rows * cols);
        for r in 0..rows {
            let mut start = 0;
            for width in &widths {
                index.extend((0..*width).map(|c| (start + r * width + c) as u32));
                start += rows * width;
            }
        }
        index
    } else {
        (0..count(&whole) as u32).collect()
    };
    tape.gather(flat, whole, index).map(Value::Tensor)
}
