//! Saves and loads the adapter and the optimizer in the format safetensors.

use super::lora::Tensor;
use super::train::Trainer;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{HashMap, HashSet};

/// The two running means of the optimizer: the suffixes of their names, which follow the name of an adapter tensor.
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

impl Trainer {
    /// The adapter as safetensors under the names that PEFT uses.
    pub(crate) fn adapter_bytes(&self) -> Result<Vec<u8>, String> {
        let tensors = self.tensors().iter().map(|t| (t.name.clone(), t, &self.model.params[..]));
        write(tensors, HashMap::from([("format".to_owned(), "pt".to_owned())]))
    }

    /// The optimizer's running means and step count as safetensors.
    pub(crate) fn optimizer_bytes(&self) -> Result<Vec<u8>, String> {
        let moments = [&self.exp_avg[..], &self.exp_avg_sq[..]];
        let tensors = self.tensors().iter().flat_map(|t| {
            let of = |i: usize| (format!("{}.{}", t.name, MOMENTS[i]), t, moments[i]);
            [of(0), of(1)]
        });
        write(tensors, HashMap::from([("step".to_owned(), self.step.to_string())]))
    }

    /// Replaces the adapter, clears the accumulated gradients and resets the optimizer.
    ///
    /// # Errors
    /// The bytes are not safetensors with exactly the names and shapes of this adapter. Then nothing has changed.
    pub(crate) fn load_adapter(&mut self, bytes: &[u8]) -> Result<(), String> {
        let file = open(bytes, "adapter")?;
        let mut params = vec![0.0; self.model.params.len()];
        for t in self.tensors() {
            read(&file, &t.name, t, &mut params[t.range.clone()])?;
        }
        let known: HashSet<&str> = self.tensors().iter().map(|t| t.name.as_str()).collect();
        reject_unknown(&file, |name| known.contains(name))?;
        self.model.params = params;
        for buffer in [&mut self.grads, &mut self.exp_avg, &mut self.exp_avg_sq] {
            buffer.fill(0.0);
        }
        self.step = 0;
        Ok(())
    }

    /// Replaces the optimizer's running means and step count.
    ///
    /// # Errors
    /// The bytes are not the optimizer state of an adapter with these names and shapes. Then nothing has changed.
    pub(crate) fn load_optimizer(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (_, metadata) = SafeTensors::read_metadata(bytes)
            .map_err(|e| format!("the optimizer state is not safetensors: {e}"))?;
        let step = metadata.metadata().as_ref().and_then(|m| m.get("step")).and_then(|s| s.parse().ok());
        let step = step.ok_or("the optimizer state lacks its step count")?;
        let file = open(bytes, "optimizer state")?;
        let mut moments = [vec![0.0; self.exp_avg.len()], vec![0.0; self.exp_avg.len()]];
        for t in self.tensors() {
            for (moment, suffix) in moments.iter_mut().zip(MOMENTS) {
                read(&file, &format!("{}.{suffix}", t.name), t, &mut moment[t.range.clone()])?;
            }
        }
        let known: HashSet<&str> = self.tensors().iter().map(|t| t.name.as_str()).collect();
        reject_unknown(&file, |name| {
            let base = MOMENTS.iter().find_map(|m| name.strip_suffix(m).and_then(|n| n.strip_suffix('.')));
            base.is_some_and(|base| known.contains(base))
        })?;
        [self.exp_avg, self.exp_avg_sq] = moments;
        self.step = step;
        Ok(())
    }

    fn tensors(&self) -> &[Tensor] {
        &self.model.layout.tensors
    }
}

fn write<'a>(
    tensors: impl Iterator<Item = (String, &'a Tensor, &'a [f32])>,
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>, String> {
    let raw: Vec<(String, [usize; 2], Vec<u8>)> = tensors
        .map(|(name, t, values)| {
            let values = &values[t.range.clone()];
            check(&name, values)?;
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            Ok((name, [t.rows, t.cols], bytes))
        })
        .collect::<Result<_, String>>()?;
    let views = raw
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.to_vec(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    views
        .and_then(|views| safetensors::serialize(views, Some(metadata)))
        .map_err(|e| format!("cannot write safetensors: {e}"))
}

fn open<'a>(bytes: &'a [u8], what: &str) -> Result<SafeTensors<'a>, String> {
    SafeTensors::deserialize(bytes).map_err(|e| format!("the {what} is not safetensors: {e}"))
}

fn read(file: &SafeTensors<'_>, name: &str, t: &Tensor, out: &mut [f32]) -> Result<(), String> {
    let view = file.tensor(name).map_err(|_| format!("the tensor {name} is missing"))?;
    if view.shape() != [t.rows, t.cols] {
        return Err(format!("the tensor {name} has shape {:?}, not [{}, {}]", view.shape(), t.rows, t.cols));
    }
    if view.dtype() != Dtype::F32 {
        return Err(format!("the tensor {name} is {:?}, not F32", view.dtype()));
    }
    for (slot, bytes) in out.iter_mut().zip(view.data().as_chunks::<4>().0) {
        *slot = f32::from_le_bytes(*bytes);
    }
    check(name, out)
}

/// Refuses a tensor with values that are not finite.
fn check(name: &str, values: &[f32]) -> Result<(), String> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(format!("the tensor {name} holds {} at {i}, which is not a finite number", values[i])),
        None => Ok(()),
    }
}

/// Refuses a file with additional tensors, so that an adapter of more matrices is never loaded in part.
fn reject_unknown(file: &SafeTensors<'_>, known: impl Fn(&str) -> bool) -> Result<(), String> {
    let mut names = file.names();
    names.sort_unstable();
    // PEFT saves the frozen matrix of an adapted head beside its adapter.
    let frozen = |name: &str| name.ends_with(".base_layer.weight");
    match names.into_iter().find(|name| !known(name) && !frozen(name)) {
        Some(unknown) => Err(format!("the tensor {unknown} does not belong to this adapter")),
        None => Ok(()),
    }
}
