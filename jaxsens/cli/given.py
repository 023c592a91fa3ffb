"""The user's own functions, `MODULE:FUNCTION`: found, called, and their errors said in one line."""

import contextlib
import importlib
import inspect
import sys
import sysconfig
import traceback
import zlib
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxsens
from jaxsens.checks import InputError, refuse
from jaxsens.measuring import Untrained

__all__ = ["Checkpoint", "as_checkpoint", "given_errors", "import_paths", "load_function", "open_model"]

Checkpoint = Path | str

# Where no frame of a traceback is the user's.
_NOT_THEIRS = (
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
    str(Path(jaxsens.__file__).parent),
    "<",
)


@contextlib.contextmanager
def import_paths() -> Iterator[None]:
    """Makes the working directory importable, as `python -m` does; afterwards all is as it was."""
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def given_errors(what: str | Callable[[], str], *, show: bool) -> Iterator[None]:
    """Around code that was given: what it prints goes to stderr, and its errors become one line.

    That begins with `what`, which may be "", or what it returns by then. `show` prints the traceback before.
    """

    def begins() -> str:
        said = what if isinstance(what, str) else what()
        return f"{said}: " if said else ""

    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except InputError as error:
        raise InputError(f"{begins()}{error}") from error
    except (Exception, SystemExit) as error:
        if show:
            traceback.print_exception(error)
        message = next(iter(str(error).splitlines()), "")
        remedy = "--traceback shows all of it"
        if "RESOURCE_EXHAUSTED" in message or isinstance(error, MemoryError):
            remedy = f"pass a smaller --chunk-size, or fewer --examples; {remedy}"
        kind = type(error).__name__
        raise InputError(f"{begins()}{kind}: {message} ({_place(error)}); {remedy}") from error


def load_function(text: str, *, show: bool = False) -> Callable[..., Any]:
    """What `package.module:function` or `path/to/file.py:function` names.

    Raises:
        InputError: no such file, module or function, or an error while it is imported.
    """
    module_name, _, name = text.rpartition(":")
    if not module_name or not name.isidentifier():
        raise refuse(
            repr(text),
            "MODULE:FUNCTION, such as package.module:function or path/to/file.py:function",
            "name both",
        )
    load = _module_of_file if module_name.endswith(".py") else _module_of_name
    module = load(module_name, show)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [value for value in vars(module).values() if inspect.isfunction(value)]
        defined = [one.__name__ for one in functions if one.__module__ == module.__name__]
        raise refuse(
            f"{text}, which is {'not there' if function is None else type(function).__name__}",
            f"a function of {module_name}",
            f"name one of {', '.join(defined)}" if defined else "define it",
        )
    return function


def as_checkpoint(text: str) -> Checkpoint:
    """An absolute path of what is there; an address such as gs://bucket/step as it is."""
    if "://" in text:
        return text
    path = Path(text).expanduser().absolute()
    if not path.exists():
        raise refuse(f"no checkpoint at {text}", "a file or folder", "check the path")
    return path


def open_model(
    function: Callable[..., Any], text: str, checkpoint: Checkpoint | None, *, show: bool = False
) -> Any:
    """The `(f, params)`, or the `Untrained`, that the function returns.

    Raises:
        InputError: it takes no checkpoint or needs one, raises, or returns something else.
    """
    arguments = () if checkpoint is None else (checkpoint,)
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        given = "without a checkpoint" if checkpoint is None else "with a checkpoint"
        remedy = "name one with --checkpoint" if checkpoint is None else "leave it out, or let it take one"
        raise refuse(f"{text} {given} ({error})", "arguments that it takes", remedy) from error
    except ValueError:
        pass  # a built-in function without a signature
    with given_errors(text if checkpoint is None else f"{text} of {checkpoint}", show=show):
        model = function(*arguments)
    pair = isinstance(model, tuple) and len(model) == 2 and callable(model[0])
    if not pair and not isinstance(model, Untrained):
        raise refuse(
            f"{_in_words(model)} from {text}",
            "(f, params), f(params, x) of one example",
            "return that pair, as every function of jaxsens.adapters does",
        )
    return model


def _module_of_name(name: str, show: bool) -> ModuleType:
    with given_errors(f"importing {name}", show=show):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # it is there, and what it imports is not
            raise refuse(
                f"no module {error.name}", "one that is installed or in this folder", "check the name"
            ) from error


def _module_of_file(text: str, show: bool) -> ModuleType:
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise refuse(f"no file {text}", "a Python file", "check the path")
    # A name of its own, so that random.py hides no module; its neighbours are importable, as for a script.
    name = f"{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # classes look their module up
    try:
        with given_errors(f"importing {text}", show=show):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _place(error: BaseException) -> str:
    """File and line: the innermost that is neither installed nor ours, where there is one."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not f.filename.startswith(_NOT_THEIRS)]
    frame = (theirs or frames)[-1]
    return f"{_short(frame.filename)}:{frame.lineno}"


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def _in_words(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {', '.join(type(entry).__name__ for entry in value) or 'nothing'}"
    return type(value).__name__
