"""All words of the page, in English and French, side by side.

French says what the teachers of these labs say: *master*, *image différentielle*, PRA, PDMA (the greatest
loss of data that is acceptable, RPO).
"""

from __future__ import annotations

LANGUAGES = ("en", "fr")

TEXTS: dict[str, tuple[str, str]] = {
    "language": ("English", "Français"),
    "skip": ("Skip to the lineage", "Aller à la lignée"),
    "announced": ("announced on {where}, port {port}", "annoncé sur {where}, port {port}"),
    "not-announced": ("not announced, port {port}", "non annoncé, port {port}"),
    "given": ("given", "donné"),
    "taken": ("taken", "reçu"),
    "per-second": ("{size}/s", "{size}/s"),
    "masters": ("Masters", "Masters"),
    "overlays": ("Overlays", "Différentielles"),
    "machines": ("Machines", "Machines"),
    "transfers": ("Transfers", "Transferts"),
    "not-replicated": ("Not replicated", "Non répliqué"),
    "free": ("Disk free", "Disque libre"),
    "lineage": ("Lineage", "Lignée"),
    "lineage-none": (
        "No image is known yet. To share one: overlaysync share PATH",
        "Aucune image n’est connue. Pour en partager une : overlaysync share PATH",
    ),
    "hidden": ("{count} more are not shown", "{count} autres ne sont pas affichées"),
    "master": ("master", "master"),
    "overlay": ("overlay", "différentielle"),
    "missing": ("missing", "manquant"),
    "missing-why": (
        "nothing here or published shows this disk",
        "rien ici ni ailleurs ne présente ce disque",
    ),
    "on": ("on {name}", "sur {name}"),
    "promoted": ("promoted to", "promue en"),
    "here": ("here", "ici"),
    "shared": ("shared", "partagée"),
    "elsewhere": ("elsewhere", "ailleurs"),
    "team": ("team {name}", "équipe {name}"),
    "holders": ("on {count} other machines", "sur {count} autres machines"),
    "holder": ("on 1 other machine", "sur 1 autre machine"),
    "in-use": ("in use", "utilisée"),
    "in-use-here": ("in use by a VM here", "utilisée par une VM ici"),
    "in-use-at": ("in use at {where}", "utilisée chez {where}"),
    "changed": ("changed since it was published", "modifiée depuis sa publication"),
    "master-changed": ("its master has changed", "son master a changé"),
    "verified": ("verified {ago}", "vérifiée {ago}"),
    "this-machine": ("this machine", "cette machine"),
    "holds": ("{masters} masters, {overlays} overlays", "{masters} masters, {overlays} différentielles"),
    "holds-used": ("{count} in use", "{count} en usage"),
    "transfers-none": ("Nothing is being transferred.", "Aucun transfert en cours."),
    "to": ("to", "vers"),
    "from": ("from", "depuis"),
    "map": (
        "{percent} % here",
        "{percent} % ici",
    ),
    "map-given": (
        "{percent} % given out by this machine",
        "{percent} % donnés par cette machine",
    ),
    "finished": ("{count} have all of it", "{count} ont tout reçu"),
    "teams": ("Teams", "Équipes"),
    "teams-none": (
        "This machine is in no team. To make one: overlaysync team create NAME",
        "Cette machine n’est dans aucune équipe. Pour en créer une : overlaysync team create NOM",
    ),
    "rpo": ("a loss now goes back to {ago} (RPO)", "une perte maintenant ramène à {ago} (PDMA)"),
    "rpo-none": (
        "no VM is proven to be on {count} machines",
        "aucune VM n’est prouvée sur {count} machines",
    ),
    "team-empty": (
        "nothing is saved; to save: overlaysync save --team {name}",
        "rien n’est sauvegardé ; pour sauvegarder : overlaysync save --team {name}",
    ),
    "vm-copies": ("on {count} of {needed} machines", "sur {count} machines sur {needed}"),
    "vm-changed": ("changed since", "modifiée depuis"),
    "vm-unchanged": ("unchanged", "inchangée"),
    "vm-fork": ("forked", "fourche"),
    "never-saved": ("never saved", "jamais sauvegardée"),
    "drill-none": ("No drill so far", "Aucun exercice jusqu’ici"),
    "alert-lacking": (
        "{team}/{vm} is on {copies} of {needed} machines.",
        "{team}/{vm} est sur {copies} machines sur {needed}.",
    ),
    "alert-lost": ("If {machine} is lost, so is the VM.", "Si {machine} est perdue, la VM l’est aussi."),
    "alert-never": ("{team}/{vm} was never saved.", "{team}/{vm} n’a jamais été sauvegardée."),
    "as-of": ("as of {time}", "à {time}"),
    "just-now": ("just now", "à l’instant"),
    "ago-min": ("{count} min ago", "il y a {count} min"),
    "ago-hour": ("{count} h ago", "il y a {count} h"),
    "ago-day": ("{count} d ago", "il y a {count} j"),
    "live": ("live", "en direct"),
    "lost": ("connection lost; what is shown is from {time}", "connexion perdue ; état de {time}"),
    "unknown-title": ("This page needs its token", "Cette page demande son jeton"),
    "unknown": (
        "Type this on the machine that runs overlaysync, and open the address that it prints:",
        "Tapez ceci sur la machine où tourne overlaysync, puis ouvrez l’adresse affichée :",
    ),
}


class Words:
    """The words of one language; called with a key and what goes into the text."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._at = LANGUAGES.index(language)

    def __call__(self, key: str, **values: object) -> str:
        text = TEXTS[key][self._at]
        return text.format(**values) if values else text


ALL = {language: Words(language) for language in LANGUAGES}


def chosen(accept: str) -> str:
    """Return the language that an Accept-Language field prefers among ours."""
    best, weight = LANGUAGES[0], 0.0
    for part in accept.split(",")[:32]:
        name, _, rest = part.strip().partition(";")
        language = name.split("-")[0].lower()
        try:
            quality = float(rest.partition("=")[2]) if rest else 1.0
        except ValueError:
            continue
        if language in LANGUAGES and quality > weight:
            best, weight = language, quality
    return best
