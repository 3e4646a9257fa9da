"""List the named networks, or print one in the network language.

Examples:
  dlkit models
  dlkit models resnet50
  dlkit models resnet50 > my.dlk && dlkit convshape @my.dlk
"""
from dlkit.core.result import Column, Result

def command() -> Result:
    return Result([Column("name"),Column("n","int")],[{"name":"a[/]\x1b[31m","n":1234567}],{"n":1},"n", facts=[Column("n","si")])
