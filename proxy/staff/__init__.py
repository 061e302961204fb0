"""Staff: who works here, in which roles, trained until when (47 CFR 64.2009(b)). See deploy/docs/staff.md.

Trust: role OPERATOR can add and end, and neither rename nor delete; what widens bears a change that two people made
(proxy/changes). Tollgate keeps no staff passwords: who somebody is, the company's OpenID provider says.
"""
