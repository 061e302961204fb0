"""Every reason for which legal process is refused or remarked on, as data.

A *legal* rule follows from the text cited; a *house* rule is our choice where the text leaves it open. Dates are those
from which the cited text has said so. Facts to build from, not legal advice: a correction is a change of a line here.
"""

from __future__ import annotations

from datetime import date
from typing import Final

from proxy.policy.process import LegalRule

ECPA: Final = date(1987, 1, 19)  # Pub. L. 99-508, s. 202: ninety days after 21 October 1986
CALEA: Final = date(1994, 10, 25)  # Pub. L. 103-414, s. 207: specific and articulable facts
ACT_1996: Final = date(1996, 2, 8)  # Telecommunications Act of 1996, s. 702
AEDPA: Final = date(1996, 4, 24)  # Pub. L. 104-132, s. 804: preservation
TELEMARKETING_1998: Final = date(1998, 6, 23)  # Pub. L. 105-184
LOCATION_1999: Final = date(1999, 10, 26)  # Pub. L. 106-81, s. 5
PATRIOT: Final = date(2001, 10, 26)  # Pub. L. 107-56, ss. 210, 212, 505
EMERGENCY_2006: Final = date(2006, 3, 9)  # Pub. L. 109-177, s. 107
CPNI_2007: Final = date(2007, 12, 8)  # 72 FR 31948
PROTECT_2008: Final = date(2008, 10, 13)  # Pub. L. 110-401
FREEDOM_2015: Final = date(2015, 6, 2)  # Pub. L. 114-23, ss. 501-503
CARPENTER: Final = date(2018, 6, 22)
RULE_41: Final = date(2009, 12, 1)  # Fed. R. Crim. P. 41(e)(2), 14 days

# The process itself.
INSTRUMENT_UNKNOWN = LegalRule(
    "instrument.unknown",
    "47 U.S.C. 222(c)(1)",
    ACT_1996,
    "The process is of no kind on which records may be disclosed.",
    "State the statute under which it is issued.",
)
INSTRUMENT_REFERRED = LegalRule(
    "instrument.referred",
    "18 U.S.C. 2518, 3123",
    ECPA,
    "The order is for communications or dialling yet to come, which are not answered from stored records.",
    "Serve it on the carrier's lawful interception contact.",
)
INSTRUMENT_EARLY = LegalRule(
    "instrument.not_in_force",
    "47 U.S.C. 222(c)(1)",
    ACT_1996,
    "On the day of issue the cited authority did not exist in this form.",
    "Check the date of issue, and cite the authority in force on it.",
)
FOREIGN = LegalRule(
    "instrument.foreign",
    "18 U.S.C. 2523, 3512",
    date(2018, 3, 23),
    "Process of a foreign authority has no force here by itself.",
    "Ask by mutual legal assistance, or under an executive agreement.",
)

# What it reaches.
CLASS_UNKNOWN = LegalRule(
    "class.unknown",
    "47 U.S.C. 222(c)(1)",
    ACT_1996,
    "A class of records is asked for that is not known.",
    "Name classes of the field guide.",
)
FIELD_UNKNOWN = LegalRule(
    "field.unknown",
    "47 U.S.C. 222(c)(1)",
    ACT_1996,
    "A field is asked for that is not known, or lies in no class asked for.",
    "Name fields of the field guide.",
)
NOTHING_ASKED = LegalRule(
    "class.none", "47 U.S.C. 222(c)(1)", ACT_1996, "No records are asked for.", "Say which records are wanted."
)
BASIC_ONLY = LegalRule(
    "reach.basic_only",
    "18 U.S.C. 2703(c)(1), (c)(2)",
    PATRIOT,
    "A subpoena compels name, address, connection records, length and types of service, numbers and identities, and"
    " means of payment; other records need an order or a warrant.",
    "Obtain an order under 18 U.S.C. 2703(d), or a warrant, or narrow the request.",
)
LOCATION_WARRANT = LegalRule(
    "reach.location_warrant",
    "U.S. Const. amend. IV; Carpenter v. United States, 585 U.S. 296 (2018)",
    CARPENTER,
    "Historical cell-site location is disclosed on a warrant only, for a period of whatever length.",
    "Obtain a search warrant on probable cause, or narrow the request.",
)
CONTENT_WARRANT = LegalRule(
    "reach.content",
    "18 U.S.C. 2702(a), 2703(a)",
    ECPA,
    "This process does not reach the content of communications.",
    "Content is not kept here: no process can obtain it from these records.",
)
CONTENT_NOT_HELD = LegalRule(
    "reach.content_not_held",
    "18 U.S.C. 2703(a), 2702(b)(8)",
    ECPA,
    "No content of communications is kept.",
    "Nothing is withheld: there is none.",
)
PROSPECTIVE = LegalRule(
    "reach.prospective",
    "18 U.S.C. 2518, 3121(a), 3123; 2703(f)(1)",
    ECPA,
    "Records made after the process was served are not reached by it.",
    "Narrow the window to what existed on service, or obtain an order under 18 U.S.C. 3123.",
)
NSL_LIST = LegalRule(
    "reach.nsl_list",
    "18 U.S.C. 2709(b)(1)",
    PATRIOT,
    "A national security letter reaches name, address, length of service, and local and long distance toll billing"
    " records, and nothing else.",
    "Narrow the request, or obtain an order or a warrant.",
)
NAME_AND_ADDRESS = LegalRule(
    "reach.name_and_address",
    "18 U.S.C. 2703(c)(1)(D)",
    TELEMARKETING_1998,
    "A written request about telemarketing fraud reaches the name, address and place of business of a subscriber.",
    "Narrow the request, or serve a subpoena, an order or a warrant.",
)
NCMEC_REPORT = LegalRule(
    "reach.ncmec_report",
    "18 U.S.C. 2702(c)(5), 2258A",
    PROTECT_2008,
    "To the National Center only what belongs to a report is given.",
    "Narrow the request to basic records of the report.",
)
REFERRED_REACH = LegalRule(
    "reach.referred",
    "18 U.S.C. 2518, 3123",
    ECPA,
    "A pen register, trap and trace or interception order reaches no stored record.",
    "Serve process for stored records.",
)

# What it must have.
AGENCY = LegalRule(
    "requires.issuer",
    "47 U.S.C. 222(c)(1); 18 U.S.C. 2703(c)",
    ACT_1996,
    "The process does not say who asks.",
    "Name the agency, court or party.",
)
OFFICER = LegalRule(
    "requires.officer",
    "18 U.S.C. 2703(c)",
    ECPA,
    "No person is named who is answerable for the process.",
    "Name the officer, attorney or judge, with title.",
    house=True,
)
REFERENCE = LegalRule(
    "requires.reference",
    "47 CFR 64.2009(c)",
    CPNI_2007,
    "The process bears no number under which a disclosure could be recorded.",
    "Give the docket, grand jury or agency number.",
    house=True,
)
COURT = LegalRule(
    "requires.court",
    "18 U.S.C. 2703(d), 2711(3)",
    CALEA,
    "No court of competent jurisdiction is named.",
    "Name the court that issued the order.",
)
COURT_CIVIL = LegalRule(
    "requires.court_civil",
    "47 U.S.C. 222(c)(1); Fed. R. Civ. P. 45(a)(1)(A)",
    ACT_1996,
    "A private party's process compels only as a court's: it must state the court.",
    "Name the court from which it issued.",
)
AUTHENTIC = LegalRule(
    "requires.authentic",
    "47 U.S.C. 222(a); 47 CFR 64.2009(b)",
    CPNI_2007,
    "The issuer has not confirmed the process.",
    "Call the issuer at a number found elsewhere than in the process, and record it.",
    house=True,
)
SIGNED_SUBPOENA = LegalRule(
    "requires.signature_subpoena",
    "18 U.S.C. 2703(c)(2)",
    PATRIOT,
    "The subpoena is not signed by a court, a grand jury, a prosecutor or an officer whom a statute empowers.",
    "Serve one that is.",
)
SIGNED_JUDGE = LegalRule(
    "requires.signature_judge",
    "18 U.S.C. 2703(c)(1)(A), (c)(1)(B), (d)",
    CALEA,
    "An order or a warrant is signed by a judge or magistrate.",
    "Serve the order as signed.",
)
SIGNED_FBI = LegalRule(
    "requires.signature_fbi",
    "18 U.S.C. 2709(b)",
    PATRIOT,
    "A national security letter is signed by the Director of the FBI, or by a designee not below Deputy Assistant"
    " Director at headquarters or Special Agent in Charge of a field office.",
    "Return it for the signature of such an officer.",
)
SIGNED_OFFICIAL = LegalRule(
    "requires.signature_official",
    "18 U.S.C. 2702(c)(4), 2703(c)(1)(D), 2703(f)(1)",
    AEDPA,
    "The request is not that of an officer of a governmental entity.",
    "Have an officer of the entity sign it.",
)
SIGNED_CIVIL = LegalRule(
    "requires.signature_civil",
    "Fed. R. Civ. P. 45(a)(3); 47 U.S.C. 222(c)(1)",
    date(1991, 12, 1),
    "A civil subpoena is signed by the clerk, or by an attorney authorised to practise in the issuing court.",
    "Serve one that is.",
)
SIGNED_CUSTOMER = LegalRule(
    "requires.signature_customer",
    "47 U.S.C. 222(c)(2)",
    ACT_1996,
    "Disclosure at a customer's wish needs the customer's affirmative written request.",
    "Obtain the customer's own signature.",
)
STATUTE = LegalRule(
    "requires.statute",
    "18 U.S.C. 2703(c)(2)",
    PATRIOT,
    "An administrative subpoena must be authorised by a federal or state statute.",
    "State the statute.",
)
ARTICULABLE = LegalRule(
    "requires.articulable_facts",
    "18 U.S.C. 2703(d)",
    CALEA,
    "The order does not find specific and articulable facts showing that the records are relevant and material to an"
    " ongoing criminal investigation.",
    "Obtain an order that makes the finding.",
)
PROBABLE = LegalRule(
    "requires.probable_cause",
    "U.S. Const. amend. IV; 18 U.S.C. 2703(c)(1)(A); Fed. R. Crim. P. 41",
    ECPA,
    "The warrant does not rest on probable cause.",
    "Obtain a warrant that does.",
)
CERTIFIED = LegalRule(
    "requires.nsl_certification",
    "18 U.S.C. 2709(b)(1)",
    FREEDOM_2015,
    "The written certification that the records of a specific selector are relevant to an authorised investigation is"
    " missing.",
    "Return the letter for certification.",
)
REVIEW_NOTICE = LegalRule(
    "requires.review_notice",
    "18 U.S.C. 2709(d)(2), 3511",
    FREEDOM_2015,
    "The letter does not tell of judicial review.",
    "Return the letter for the notice.",
)
NONDISCLOSURE_CERTIFIED = LegalRule(
    "requires.nondisclosure_certified",
    "18 U.S.C. 2709(c)(1)(B)",
    FREEDOM_2015,
    "The letter forbids disclosure without the certification that this needs.",
    "Return the letter for certification. Until then treat it as forbidden.",
)
CUSTOMER_WRITTEN = LegalRule(
    "requires.written_request",
    "47 U.S.C. 222(c)(2); 18 U.S.C. 2702(c)(2), 2703(c)(1)(C)",
    ACT_1996,
    "The customer's consent is not in writing.",
    "Obtain it in writing, signed.",
)
IDENTITY = LegalRule(
    "requires.identity",
    "47 CFR 64.2010(a)",
    CPNI_2007,
    "It was not established that the request is the customer's own.",
    "Authenticate the customer as 47 CFR 64.2010 says.",
)
RECIPIENT = LegalRule(
    "requires.recipient",
    "47 U.S.C. 222(c)(2)",
    ACT_1996,
    "The customer designates nobody who is to receive the records.",
    "Have the customer name the person.",
)
LOCATION_CONSENT = LegalRule(
    "requires.location_authorised",
    "47 U.S.C. 222(f)(1)",
    LOCATION_1999,
    "Call location needs the customer's express prior authorisation.",
    "Obtain it, or narrow the request.",
)
LOCATION_CIVIL = LegalRule(
    "requires.location_civil",
    "47 U.S.C. 222(c)(1), 222(f)(1)",
    LOCATION_1999,
    "Call location is not given on a party's own subpoena.",
    "Obtain a court's order for it, or the customer's express authorisation, or narrow the request.",
    house=True,
)
DANGER = LegalRule(
    "requires.danger",
    "18 U.S.C. 2702(c)(4)",
    EMERGENCY_2006,
    "No danger of death or serious physical injury to a person is stated.",
    "State it, or serve process.",
)
NO_DELAY = LegalRule(
    "requires.no_delay",
    "18 U.S.C. 2702(c)(4)",
    EMERGENCY_2006,
    "It is not stated that the emergency requires disclosure without delay.",
    "State it, or serve process.",
)
GOOD_FAITH = LegalRule(
    "requires.good_faith",
    "18 U.S.C. 2702(c)(4)",
    EMERGENCY_2006,
    "Nobody here has recorded the belief, in good faith, that there is such an emergency.",
    "Record the belief and its reasons, or wait for process.",
)
COUNSEL = LegalRule(
    "requires.counsel",
    "47 U.S.C. 222(c)(1)",
    ACT_1996,
    "Counsel has not found that the law requires this disclosure to a private party.",
    "Have counsel review it.",
    house=True,
)
NOTIFIED = LegalRule(
    "requires.customer_notified",
    "47 U.S.C. 222(a), 222(c)(1)",
    ACT_1996,
    "The customer has not been told, and counsel has not said that no notice is due.",
    "Notify the customer and allow time to object, or record counsel's finding.",
    house=True,
)
FRAUD_REQUEST = LegalRule(
    "requires.fraud_request",
    "18 U.S.C. 2703(c)(1)(D)",
    TELEMARKETING_1998,
    "There is no formal written request relevant to an investigation of telemarketing fraud.",
    "Serve one.",
)
REPORT = LegalRule(
    "requires.report",
    "18 U.S.C. 2702(c)(5), 2258A",
    PROTECT_2008,
    "No report was submitted with which the records would go.",
    "File the report first.",
)
CERTIFICATION_UNKNOWN = LegalRule(
    "requires.certification_known",
    "Fed. R. Evid. 902(11), 902(13), 902(14)",
    date(2017, 12, 1),
    "A certification is wanted that is not offered.",
    "Ask for 902(11), 902(13) or 902(14).",
)

# Dates.
ISSUED_LATER = LegalRule(
    "date.issued_after_service",
    "47 U.S.C. 222(c)(1)",
    ACT_1996,
    "The process bears a date later than its service.",
    "Check both dates.",
    house=True,
)
SERVED_LATER = LegalRule(
    "date.served_in_future",
    "47 U.S.C. 222(c)(1)",
    ACT_1996,
    "The process is said to be served at a time to come.",
    "Check the time of service.",
    house=True,
)
EXPIRED = LegalRule(
    "date.expired",
    "47 U.S.C. 222(c)(1)",
    ACT_1996,
    "The last day on which the process could be executed has passed.",
    "Obtain an extension or new process.",
)
RETURN_EARLY = LegalRule(
    "date.return_before_issue",
    "47 U.S.C. 222(c)(1)",
    ACT_1996,
    "The process is returnable before it was issued.",
    "Check both dates.",
    house=True,
)
WARRANT_STALE = LegalRule(
    "date.warrant_stale",
    "Fed. R. Crim. P. 41(e)(2)(A)(i)",
    RULE_41,
    "The warrant was served more than 14 days after it was issued.",
    "Obtain a new warrant, or show the time that the court set.",
)
ZONE_UNKNOWN = LegalRule(
    "date.zone",
    "47 U.S.C. 222(c)(1)",
    ACT_1996,
    "The time zone of the request is not known.",
    "Name a zone of the IANA list, as America/New_York.",
    house=True,
)
WINDOW_EMPTY = LegalRule(
    "window.empty",
    "47 U.S.C. 222(c)(1)",
    ACT_1996,
    "The window holds no moment.",
    "State a beginning and a later end.",
    house=True,
)

# Targets.
TARGETS_NONE = LegalRule(
    "target.none",
    "47 U.S.C. 222(c)(1); 18 U.S.C. 2703(c)(1)",
    ACT_1996,
    "No number, account or trunk is named whose records are wanted.",
    "Name each one.",
)
TARGETS_MANY = LegalRule(
    "target.too_many",
    "18 U.S.C. 2703(d)",
    CALEA,
    "More than 100,000 targets are named.",
    "Split the request, or narrow it.",
    house=True,
)
TARGETS_UNREADABLE = LegalRule(
    "target.unreadable",
    "47 U.S.C. 222(c)(1)",
    ACT_1996,
    "What is named at these places of the list is nothing that records can be searched by.",
    "Write telephone numbers in full, with area code and without extension; account:, trunk: and imsi: for others.",
    house=True,
)

# Remarks: they stop nothing by themselves.
GUARDED = LegalRule(
    "note.guarded_target",
    "47 U.S.C. 222(a)",
    ACT_1996,
    "Targets are numbers of police, courts or counsel, or of our own staff.",
    "Counsel looks at it before it is approved.",
    house=True,
)
VOLUMINOUS = LegalRule(
    "note.voluminous",
    "18 U.S.C. 2703(d); Fed. R. Crim. P. 17(c)(2); Fed. R. Civ. P. 45(d)(3)(A)(iv)",
    CALEA,
    "The request is unusually voluminous.",
    "Consider an objection (motion to quash or modify), and cost reimbursement under 18 U.S.C. 2706(c).",
    house=True,
)
LAST_DAY_CUT = LegalRule(
    "note.last_day",
    "18 U.S.C. 3121(a)",
    ECPA,
    "The window ends within the day of service; it is answered up to the time of service.",
    "Nothing: later records did not exist.",
    house=True,
)

RULES: Final = tuple(value for value in list(globals().values()) if isinstance(value, LegalRule))
"""Every reason the check can give."""
