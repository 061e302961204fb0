"""What a record is: fields and disclosure classes, SQL migrations, login roles, the published API description."""
