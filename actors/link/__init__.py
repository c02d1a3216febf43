"""The media link: typed messages over one TCP connection per gateway and call actor."""
