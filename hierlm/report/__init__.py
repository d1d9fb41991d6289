"""Comparison tables, plots and the report of one run, from run directories or from MLflow. Torch-free."""
