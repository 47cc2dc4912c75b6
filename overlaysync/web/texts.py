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
    "given": ("sent", "envoyé"),
    "taken": ("received", "reçu"),
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
        "{percent} % sent by this machine",
        "{percent} % envoyés par cette machine",
    ),
    "finished": ("{count} have all of it", "{count} ont tout reçu"),
    "teams": ("Teams", "Équipes"),
    "teams-none": (
        "This machine is in no team. To make one: overlaysync team create NAME",
        "Cette machine n’est dans aucune équipe. Pour en créer une : overlaysync team create NOM",
    ),
    "rpo": (
        "if a machine is lost now, VMs go back to what was saved {ago} (RPO)",
        "si une machine est perdue maintenant, retour à la sauvegarde faite {ago} (PDMA)",
    ),
    "rpo-none": (
        "no VM is proven to be on {count} machines",
        "aucune VM n’a de copies prouvées sur {count} machines",
    ),
    "team-empty": (
        "nothing is saved; to save: overlaysync save --team {name}",
        "rien n’est sauvegardé ; pour sauvegarder : overlaysync save --team {name}",
    ),
    "vm-lacking": ("on {count} of {needed} machines", "sur {count} des {needed} machines"),
    "vm-copies": ("on {count} machines", "sur {count} machines"),
    "vm-holders": ("Where it is", "Où elle est"),
    "proven": ("proven {ago}", "prouvée {ago}"),
    "unproven": ("not proven", "non prouvée"),
    "vm-last": ("Last saved", "Dernière sauvegarde"),
    "vm-copies-title": ("Copies", "Copies"),
    "vm-changed": ("changed since", "modifiée depuis"),
    "vm-unchanged": ("unchanged", "inchangée"),
    "vm-fork": ("forked", "fourche"),
    "team": ("team", "équipe"),
    "never-saved-title": ("Never saved", "Jamais sauvegardées"),
    "never-saved": ("never saved", "jamais sauvegardée"),
    "drill-none": ("No drill so far", "Aucune répétition jusqu’ici"),
    "drill-last": (
        "Last drill: {verdict}, {ago}, by {by}",
        "Dernière répétition : {verdict}, {ago}, par {by}",
    ),
    "drill-rto": ("all VMs back in {time}", "toutes les VM de retour en {time}"),
    "drill-title": ("Last drill", "Dernière répétition"),
    "drill-passed": ("Last drill that passed", "Dernière répétition réussie"),
    "drill-passed-none": ("none", "aucun"),
    "drill-verdict": ("Result", "Résultat"),
    "drill-back": ("VMs that came back", "VM de retour"),
    "drill-of": ("{count} of {all}", "{count} sur {all}"),
    "drill-lost": ("Pretended to be lost", "Réputé perdu"),
    "drill-lost-none": ("nothing", "rien"),
    "drill-by": ("On", "Sur"),
    "rto": ("Until the last VM was back (RTO)", "Jusqu’au retour de la dernière VM (DMIA)"),
    "rpo-title": ("Data lost (RPO)", "Données perdues (PDMA)"),
    "verdict-passed": ("passed", "réussi"),
    "verdict-partial": ("some VMs came back", "une partie des VM est revenue"),
    "verdict-failed": ("failed", "échec"),
    "verdict-timed-out": ("timed out", "délai dépassé"),
    "verdict-not-tested": ("all VMs came back, not booted", "toutes les VM revenues, sans démarrage"),
    "kept": (
        "this machine keeps it; wanted on {count} machines",
        "cette machine la garde ; voulue sur {count} machines",
    ),
    "kept-budget": ("in {size} at most", "dans {size} au plus"),
    "not-kept": ("this machine does not keep it", "cette machine ne la garde pas"),
    "keeps": ("has copies of {teams}", "a des copies de {teams}"),
    "team-state": ("Loss of a machine", "Perte d’une machine"),
    "team-keeping": ("Keeping", "Garde"),
    "problems": ("Problems", "Problèmes"),
    "alert-lacking": (
        "{team}/{vm} is on {copies} of {needed} machines.",
        "{team}/{vm} est sur {copies} des {needed} machines voulues.",
    ),
    "alert-lacking-many": (
        "{team}: {vm} are on {copies} of {needed} machines.",
        "{team} : {vm} sont sur {copies} des {needed} machines voulues.",
    ),
    "alert-lost": ("If {machine} is lost, so is the VM.", "Si {machine} est perdue, la VM l’est aussi."),
    "alert-lost-many": (
        "If {machine} is lost, so are they.",
        "Si {machine} est perdue, elles le sont aussi.",
    ),
    "alert-never": ("{team}/{vm} was never saved.", "{team}/{vm} n’a jamais été sauvegardée."),
    "alert-never-many": (
        "{team}: {vm} were never saved.",
        "{team} : {vm} n’ont jamais été sauvegardées.",
    ),
    "and-more": ("and {count} more", "et {count} de plus"),
    "as-of": ("as of {time}", "à {time}"),
    "just-now": ("just now", "à l’instant"),
    "ago-min": ("{count} min ago", "il y a {count} min"),
    "ago-hour": ("{count} h ago", "il y a {count} h"),
    "ago-day": ("{count} d ago", "il y a {count} j"),
    "live": ("live", "en direct"),
    "lost": ("connection lost; what is shown is from {time}", "connexion perdue ; état de {time}"),
    "colon": (": ", " : "),
    "tasks": ("Tasks", "Tâches"),
    "tasks-none": ("Nothing was started on this page.", "Rien n’a été lancé depuis cette page."),
    "news-task": ("{action} {about}: {state}.", "{action} {about} : {state}."),
    "news-tasks": ("{count} tasks have ended.", "{count} tâches sont terminées."),
    "news-vm": ("{vm} is on too few machines now.", "{vm} est sur trop peu de machines."),
    "news-vms": (
        "{count} more VMs are on too few machines now.",
        "{count} VM de plus sont sur trop peu de machines.",
    ),
    "find": ("Find", "Chercher"),
    "images": ("Images", "Images"),
    "order": ("Order", "Ordre"),
    "show": ("Show", "Afficher"),
    "clear": ("Show everything", "Tout afficher"),
    "no-match": ("Nothing here fits the filter.", "Rien ici ne correspond au filtre."),
    "images-": ("all", "toutes"),
    "images-master": ("masters", "masters"),
    "images-overlay": ("overlays", "différentielles"),
    "images-here": ("on this machine", "sur cette machine"),
    "images-elsewhere": ("only on other machines", "seulement ailleurs"),
    "images-single": ("on one machine only", "sur une seule machine"),
    "images-in-use": ("in use", "utilisées"),
    "order-": ("family tree", "lignée"),
    "order-name": ("by name", "par nom"),
    "order-size": ("largest first", "les plus grandes d’abord"),
    "order-verified": ("longest unverified first", "les moins récemment vérifiées d’abord"),
    "order-copies": ("fewest machines first", "les moins répliquées d’abord"),
    "tasks-": ("newest", "récentes"),
    "tasks-all": ("all", "toutes"),
    "tasks-running": ("running", "en cours"),
    "tasks-done": ("done", "terminées"),
    "tasks-stopped": ("stopped", "arrêtées"),
    "tasks-failed": ("failed", "échouées"),
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
        "Limit what this machine sends to all others together while it shares.",
        "Limiter ce que cette machine envoie à toutes les autres, tant qu’elle partage.",
    ),
    "slow-begin": ("Send slowly", "Envoyer lentement"),
    "slow-end": ("End slow mode", "Quitter le mode lent"),
    "field-rate": ("Bytes per second at most, such as 1M", "Octets par seconde au plus, par exemple 1M"),
    "do-fetch": ("Fetch", "Récupérer"),
    "do-verify": ("Verify", "Vérifier"),
    "do-promote": ("Promote", "Promouvoir"),
    "do-discard": ("Discard", "Jeter"),
    "do-save": ("Save", "Sauvegarder"),
    "do-restore": ("Restore", "Restaurer"),
    "do-drill": ("Drill", "Répétition (PRA)"),
    "do-keep": ("Keep copies", "Garder des copies"),
    "do-unkeep": ("Stop keeping", "Ne plus garder"),
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
    "why-keep": (
        "Take copies of what the team saves, now and whenever something is new, for others to restore from.",
        "Copier ce que l’équipe sauvegarde, maintenant et à chaque nouveauté, pour les autres machines.",
    ),
    "why-unkeep": (
        "Take no more copies of what the team saves. Those that are here stay.",
        "Ne plus prendre de copies de ce que l’équipe sauvegarde. Celles qui sont ici restent.",
    ),
    "field-copies": (
        "On how many machines each state is to be, with the one that saved it",
        "Sur combien de machines chaque état doit être, avec celle qui l’a sauvegardé",
    ),
    "field-budget": (
        "Space that they may take here, such as 50G; empty for no limit",
        "Place qu’elles peuvent prendre ici, par exemple 50G ; vide : sans limite",
    ),
    "field-to-drill": ("Directory for the report", "Répertoire du rapport"),
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
        "What this address showed is gone, or cannot be done now.",
        "Ce que cette adresse montrait n’existe plus, ou n’est pas possible pour le moment.",
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
