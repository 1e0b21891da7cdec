"""Sockets, names and limits on which the gateway and its bridge for gRPC agree.

The bridge and the process that starts Envoy import little, so these are not in the modules that render configuration.
"""

BRIDGE_SOCKET, REST_SOCKET = "bridge.sock", "rest.sock"
"""Sockets in the gateway's folder that the bridge and the gateway's listener for it listen on."""

REST_LISTENER = "rest"
"""Name of that listener."""

MAX_MESSAGE_BYTES = 8 * 2**20
"""Largest message, and largest body of any request."""

CALLS_AT_ONCE = 192
"""Calls under way in the bridge: the requests at once, and waiting, of two services that are slow."""

BYTES_AT_ONCE = 128 * 2**20
"""Bytes of messages under way in the bridge, which needs a few times as much memory for them."""

ANSWER_SECONDS = 65
"""Longest time of a call; longer than a request of the REST form, whose status the client is to get."""
