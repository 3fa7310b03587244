"""The page for people."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader

from blog import BUILD, __version__
from blog.dependencies import CurrentSettings, CurrentStore

NEWEST = 20

router = APIRouter()
templates = Environment(loader=PackageLoader("blog"), autoescape=True)


@router.get("/", response_class=HTMLResponse)
async def home(settings: CurrentSettings, store: CurrentStore) -> str:
    return templates.get_template("home.html").render(
        title=settings.title,
        release=settings.release,
        version=__version__,
        build=BUILD,
        posts=await store.newest(NEWEST),
    )
