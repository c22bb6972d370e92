SELECT format FROM indelible.indelible_format
