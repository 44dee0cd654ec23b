"""Data: files of events and items become a checked, cleaned and split data set, and the data of each client.

    settings = discover(Path("my-data"))           # or DataSettings(demo="movietweetings")
    print(check(settings, Path(".")).warnings)
    dataset = load_dataset(settings, Path("."))
    clients = client_data(dataset, assign_clients(dataset, KMeansClients(), seed=1))

Nothing of an event after training reaches training data, the catalogue or the assignment of clients.
"""

from pplr.data.checks import check
from pplr.data.cleaning import CleaningSettings
from pplr.data.clients import (
    ClientSettings,
    ColumnClients,
    DirichletClients,
    KMeansClients,
    RandomClients,
    assign_clients,
)
from pplr.data.columns import ColumnNames
from pplr.data.dataset import Catalogue, ClientData, Dataset, Part, Queries, Ragged
from pplr.data.discover import discover
from pplr.data.load import Loaded, load, load_dataset
from pplr.data.notes import Note
from pplr.data.partition import ClientAssignment, client_data, pool
from pplr.data.report import DataReport
from pplr.data.settings import DataSettings, resolve_paths
from pplr.data.splits import GlobalTime, LeaveOneOut, SplitSettings

__all__ = [
    "Catalogue",
    "CleaningSettings",
    "ClientAssignment",
    "ClientData",
    "ClientSettings",
    "ColumnClients",
    "ColumnNames",
    "DataReport",
    "DataSettings",
    "Dataset",
    "DirichletClients",
    "GlobalTime",
    "KMeansClients",
    "LeaveOneOut",
    "Loaded",
    "Note",
    "Part",
    "Queries",
    "Ragged",
    "RandomClients",
    "SplitSettings",
    "assign_clients",
    "check",
    "client_data",
    "discover",
    "load",
    "load_dataset",
    "pool",
    "resolve_paths",
]
