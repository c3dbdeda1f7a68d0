//! Where each model is: runs of two engines can be compared, each on its own.

use std::sync::Arc;

use crate::connection::{App, Connection};
use crate::failure::Failure;
use crate::run_folder::{is_run, weights_of};

/// The path of each model, and the options with the server that has it. A model that is not a run is asked where the
/// command line says, or else where the first of the runs was trained.
pub(super) fn of(models: &[String], app: &App) -> Result<Vec<(String, App)>, Failure> {
    let run = models.iter().find(|model| is_run(model));
    let place_of_others =
        run.map_or_else(|| Ok(app.clone()), |run| weights_of(run, app).map(|(_, place)| place))?;
    models.iter().map(|model| weights_of(model, if is_run(model) { app } else { &place_of_others })).collect()
}

/// The connections of a command, one for each server.
#[derive(Default)]
pub(super) struct Connections(Vec<(Place, Arc<Connection>)>);

/// The options that name a server, and the project.
type Place = (String, Option<String>);

impl Connections {
    /// The connection to the server of these options.
    pub(super) fn of(&mut self, app: &App) -> Result<Arc<Connection>, Failure> {
        let place = (app.place(), app.global.project.clone());
        if let Some((_, connection)) = self.0.iter().find(|(known, _)| *known == place) {
            return Ok(connection.clone());
        }
        let connection = Arc::new(app.connect()?);
        self.0.push((place, connection.clone()));
        Ok(connection)
    }
}
