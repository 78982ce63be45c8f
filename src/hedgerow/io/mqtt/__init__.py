"""MQTT for asyncio: settings of a broker, one connection that is kept up, topic templates."""
