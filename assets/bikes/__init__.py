"""The domain of bikes: the riders of each hour, forecast a day ahead from counts that arrive by the day."""
