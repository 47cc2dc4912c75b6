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
    "holders": ("on {count} other machines", "sur {count} autres machines"),
    "holder": ("on 1 other machine", "sur 1 autre machine"),
    "in-use": ("in use", "utilisée"),
    "in-use-here": ("in use by a VM here", "utilisée par une VM ici"),
    "in-use-at": ("in use at {where}", "utilisée chez {where}"),
    "changed": ("changed since it was published", "modifiée depuis sa publication"),
    "master-changed": ("its master has changed", "son master a changé"),
    "verified": ("verified {ago}", "vérifiée {ago}"),
    "this-machine": ("this machine", "cette machine"),
    "holds": ("masters {masters}, overlays {overlays}", "masters {masters}, différentielles {overlays}"),
    "holds-used": ("in use {count}", "en usage {count}"),
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
    "tasks": ("Tasks", "Tâches"),
    "tasks-none": ("Nothing was begun on this page.", "Rien n’a été lancé depuis cette page."),
    "state-running": ("running", "en cours"),
    "state-done": ("done", "terminé"),
    "state-stopped": ("stopped", "arrêté"),
    "state-failed": ("failed", "échec"),
    "took": ("{seconds} s", "{seconds} s"),
    "task-command": ("Command", "Commande"),
    "task-output": ("Output", "Sortie"),
    "task-stop": ("Stop", "Arrêter"),
    "task-stop-why": ("What is verified is kept.", "Ce qui est vérifié est conservé."),
    "stalled": ("nothing for {seconds} s", "rien depuis {seconds} s"),
    "cancel": ("Cancel", "Annuler"),
    "slow": ("Slow mode", "Mode lent"),
    "slow-on": ("Slow: {size}/s at most", "Lent : {size}/s au plus"),
    "why-slow": (
        "Limit what this machine gives to all others together, while it shares.",
        "Limiter ce que cette machine donne à toutes les autres, tant qu’elle partage.",
    ),
    "slow-begin": ("Give slowly", "Donner lentement"),
    "slow-end": ("As before", "Comme avant"),
    "field-rate": ("Bytes per second at most, such as 1M", "Octets par seconde au plus, par exemple 1M"),
    "do-fetch": ("Fetch", "Récupérer"),
    "do-verify": ("Verify", "Vérifier"),
    "do-promote": ("Promote", "Promouvoir"),
    "do-discard": ("Discard", "Jeter"),
    "do-save": ("Save", "Sauvegarder"),
    "do-restore": ("Restore", "Restaurer"),
    "do-drill": ("Drill", "Exercice PRA"),
    "why-fetch": (
        "Fetch this image from the machines that have it, with the master that it stands on.",
        "Récupérer cette image auprès des machines qui l’ont, avec le master sur lequel elle repose.",
    ),
    "why-verify": (
        "Read the file again, and compare it with what was published.",
        "Relire le fichier et le comparer à ce qui a été publié.",
    ),
    "why-promote": (
        "Make a new read-only master with the disk of this overlay. The overlay stays.",
        "Créer un nouveau master, en lecture seule, avec le disque de cette image différentielle, qui reste.",
    ),
    "why-discard": (
        "Remove this overlay for good. One that is in use, or that others stand on, is not removed.",
        "Supprimer définitivement cette image différentielle. Utilisée, ou base d’une autre, elle reste.",
    ),
    "why-save": (
        "Save the VMs of a directory as a state of the team.",
        "Sauvegarder les VM d’un répertoire comme un état de l’équipe.",
    ),
    "why-restore": (
        "Restore the newest saved VMs of the team. Files that are there are not replaced.",
        "Restaurer les VM de l’équipe, dernier état sauvegardé. Aucun fichier présent n’est remplacé.",
    ),
    "why-drill": (
        "Rehearse a restore, timed and reported, without touching what is here.",
        "Répéter une restauration, chronométrée et consignée, sans toucher à ce qui est ici.",
    ),
    "field-to": ("Directory", "Répertoire"),
    "field-to-save": ("Directory of the VMs", "Répertoire des VM"),
    "field-masters": ("Directory for masters", "Répertoire des masters"),
    "field-name": ("Name of the new master", "Nom du nouveau master"),
    "field-note": ("Note", "Note"),
    "field-repair": ("Repair damage from other machines", "Réparer depuis les autres machines"),
    "fact-id": ("Id", "Identifiant"),
    "fact-on": ("Stands on", "Repose sur"),
    "fact-size": ("Data", "Données"),
    "fact-team": ("Team", "Équipe"),
    "fact-here": ("Files here", "Fichiers ici"),
    "fact-verified": ("Verified", "Vérifiée"),
    "fact-changed": ("State", "État"),
    "fact-holders": ("Other machines", "Autres machines"),
    "missing-title": ("Not there", "Introuvable"),
    "missing-page": (
        "What this address showed has gone, or cannot be done now.",
        "Ce que montrait cette adresse a disparu, ou n’est pas possible maintenant.",
    ),
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
