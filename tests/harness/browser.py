"""A window of Chromium on Prefect's page of a local stack, and what a person does in it."""

import re
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from local_stack import Local
from playwright.sync_api import Locator, Page, Response, expect

MOST_TRIES = 5


class Browser:
    """One window on the page of a local stack."""

    def __init__(self, page: Page, local: Local, pictures: Path) -> None:
        self.page, self._local, self._pictures = page, local, pictures

    def open(self, path: str) -> None:
        """Go to a page of Prefect's."""
        self.page.goto(f"{self._local.stack.page}/v2{path}")

    def sign_in(self) -> None:
        """Once in a window, with what the file says that `retune local start` names."""
        self.page.goto(self._local.stack.page)
        field = self.page.get_by_placeholder("admin:pass")
        expect(field).to_be_visible()
        self.keep("sign-in")
        field.fill(self._local.sign_in_string)
        self.button("Login").click()
        expect(self.page).to_have_url(re.compile("/dashboard"))

    def keep(self, name: str) -> None:
        """A picture of what is to be seen."""
        self.page.screenshot(path=self._pictures / f"{name}.png")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def choose(self, name: str) -> None:
        """An entry of the menu that is open."""
        self.page.get_by_role("menuitem", name=name, exact=True).click()

    def open_deployment(self, name: str) -> None:
        """From the list of deployments, as a person finds it."""
        self.open("/deployments")
        self.page.get_by_role("link", name=name, exact=True).click()
        expect(self.page).to_have_url(re.compile("/deployments/deployment/"))

    def open_form(self, name: str) -> Page:
        """The form for a run of the deployment that is not quite the usual one."""
        self.open_deployment(name)
        self.button("Run").click()
        self.choose("Custom run")
        return self.page

    def ask(self, call: str, act: Callable[[], None]) -> Response:
        """What the server answered to the call that an act of the person's makes.

        It answers 503 while SQLite is busy with another write; Prefect's other clients ask again then, and in the page
        a person does.
        """
        for _ in range(MOST_TRIES):
            with self.page.expect_response(f"**/{call}") as answer:
                act()
            if answer.value.status != 503:
                break
        assert answer.value.ok, answer.value.text()
        return answer.value

    def start_run(self, act: Callable[[], None]) -> UUID:
        """The run that an act starts. The page is left: it is drawn again and again while a run goes on."""
        run = UUID(self.ask("create_flow_run", act).json()["id"])
        self.leave()
        return run

    def leave(self) -> None:
        """Look at nothing."""
        self.page.goto("about:blank")

    def quick_run(self) -> None:
        """The usual run of the deployment whose page is open."""
        self.button("Run").click()
        self.choose("Quick run")

    def open_run(self, run: UUID) -> None:
        self.open(f"/runs/flow-run/{run}")

    def menu(self, entry: str) -> None:
        """An entry of the run's menu."""
        self.page.get_by_role("button", name="Open menu").first.click()
        self.choose(entry)
